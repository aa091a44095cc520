//! Whom operators mean by a name. Pure.
//!
//! Whoever may start a container may give it any name, also an address, or a name that a backend of
//! the file has. An order that could be for either of two is for neither.

use std::collections::BTreeSet;

use crate::{
    api::steer::{SteerError, SteerRequest},
    labels::shown,
    model::{Backend, ServiceName},
};

/// Digits of a container's id from which on it goes before names: so many does Docker show.
const ID_DIGITS_MIN: usize = 12;
/// Backends that an error lists.
const LISTED_MAX: usize = 4;

/// A backend of a service.
type Member<'a> = (&'a ServiceName, &'a Backend);

/// The backends that are meant: by the id of their container, else by name or address.
pub(super) fn meant<'a>(
    request: &SteerRequest,
    backends: impl Iterator<Item = Member<'a>>,
) -> Result<Vec<Member<'a>>, SteerError> {
    let name = request.backend.as_str();
    let is_asked = |(service, _): &Member<'_>| {
        request.service.as_ref().is_none_or(|wanted| wanted == *service)
    };
    let (mut by_id, mut by_name, mut by_address) = (Vec::new(), Vec::new(), Vec::new());
    for member in backends.filter(is_asked) {
        let Backend { display_name, address, instance, .. } = member.1;
        if is_id(name) && instance.starts_with(name) {
            by_id.push(member);
        }
        if display_name == name {
            by_name.push(member);
        } else if address.to_string() == name || address.ip().to_string() == name {
            by_address.push(member);
        }
    }
    if !by_id.is_empty() {
        return one_of(name, by_id);
    }
    // One address may be that of many ports, and all of them are meant.
    match (by_name.is_empty(), by_address.is_empty()) {
        (true, true) => Err(SteerError::Nobody(nobody(request))),
        (true, false) => Ok(by_address),
        (false, true) => one_of(name, by_name),
        (false, false) if parties(&by_address).is_subset(&parties(&by_name)) => {
            one_of(name, by_name.into_iter().chain(by_address).collect())
        }
        (false, false) => Err(ambiguous(name, by_name.iter().chain(&by_address))),
    }
}

fn is_id(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.len() >= ID_DIGITS_MIN && name.bytes().all(is_digit)
}

/// These, if all of them are one container, or one entry of the file.
fn one_of<'a>(name: &str, members: Vec<Member<'a>>) -> Result<Vec<Member<'a>>, SteerError> {
    if parties(&members).len() > 1 { Err(ambiguous(name, members.iter())) } else { Ok(members) }
}

fn parties<'a>(members: &[Member<'a>]) -> BTreeSet<&'a str> {
    let party = |(_, backend): &Member<'a>| match backend.instance.as_str() {
        "" => backend.display_name.as_str(),
        instance => instance,
    };
    members.iter().map(party).collect()
}

fn ambiguous<'a>(name: &str, members: impl Iterator<Item = &'a Member<'a>>) -> SteerError {
    let one = |(service, backend): &Member<'_>| {
        let Backend { display_name, address, .. } = backend;
        format!("`{}` at {address} of `{}`", shown(display_name), shown(&service.0))
    };
    let all: BTreeSet<String> = members.map(one).collect();
    let more = all.len().saturating_sub(LISTED_MAX);
    let others = (more > 0).then(|| format!("{more} others"));
    let listed = all.into_iter().take(LISTED_MAX).chain(others).collect::<Vec<_>>().join(", or ");
    SteerError::Ambiguous(format!(
        "`{}` may be {listed}; say which by `--service`, by its address with the port, or by the \
         first {ID_DIGITS_MIN} digits of its container's id",
        shown(name)
    ))
}

fn nobody(request: &SteerRequest) -> String {
    let SteerRequest { backend, service, .. } = request;
    let backend = shown(backend);
    match service {
        None => format!("there is no backend `{backend}`; `lbctl backend list` shows all"),
        Some(service) => format!(
            "there is no backend `{backend}` of a service `{}`; `lbctl backend list` shows all",
            shown(&service.0)
        ),
    }
}
