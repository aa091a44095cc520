//! How a service is balanced, as the file has it: the keys of `[[service]]`, `[service.probe]` and
//! `[defaults]`.

use lb_common::abi;
use toml::Spanned;

use super::{raw, validate::Checker};
use crate::{
    grammar::{self, ProbeParts, ProbeWord},
    model::{Origin, ProbePlace, Setting, Wishes},
};

const DAY_SECONDS: u32 = 24 * 3600;

/// Where keys of a policy stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In `[defaults]`, for containers and addresses alike.
    Defaults,
    /// In a `[[service]]`, whose backends are addresses.
    Service,
}

impl Checker<'_> {
    /// What these keys wish. `object` is where they stand, for people.
    pub(super) fn policy(&mut self, policy: raw::Policy, object: &str, place: Place) -> Wishes {
        let number = |this: &mut Self, value, key: &str, allowed| {
            let value: Spanned<i64> = value?;
            let value = this.number(Some(value), key, allowed, 0);
            Some(Setting::new(value, Origin::config(object, key)))
        };
        let mut wishes = Wishes {
            affinity: self.value(policy.affinity, object, "affinity", grammar::affinity),
            unreachable: self.value(
                policy.unreachable,
                object,
                "unreachable",
                grammar::unreachable,
            ),
            drain_seconds: number(self, policy.drain_seconds, "drain_seconds", 0..=DAY_SECONDS),
            unhealthy_grace_seconds: number(
                self,
                policy.unhealthy_grace_seconds,
                "unhealthy_grace_seconds",
                0..=DAY_SECONDS,
            ),
            panic_percent: number(self, policy.panic_percent, "panic_percent", 0..=100),
            passive: policy
                .passive
                .map(|is_on| Setting::new(is_on, Origin::config(object, "passive"))),
            slow_start_seconds: number(
                self,
                policy.slow_start_seconds,
                "slow_start_seconds",
                0..=DAY_SECONDS,
            ),
            datagrams: self.value(policy.datagrams, object, "datagrams", grammar::datagrams),
            visible: self.value(policy.visible, object, "visible", grammar::visibility),
            prefer: self.value(policy.prefer, object, "prefer", grammar::preference),
            ring_size: policy.ring_size.and_then(|size| {
                let size = Some(self.ring_size(&size)?);
                Some(Setting::new(size, Origin::config(object, "ring_size")))
            }),
            ..Wishes::default()
        };
        if let Some(probe) = policy.probe {
            let span = probe.span();
            let probe = probe.into_inner();
            self.probe_times(&probe, object, &mut wishes);
            self.probe_place(probe.place.clone(), object, place, &mut wishes);
            self.probe_kind(probe, span, object, place, &mut wishes);
        }
        wishes
    }

    /// What a service expects to be there, and whom it shares its frontends with.
    pub(super) fn expected(&mut self, keys: raw::Expected, object: &str, wishes: &mut Wishes) {
        let mut count = |value: Option<Spanned<i64>>, key: &str, allowed| {
            let value = self.number(Some(value?), key, allowed, 0);
            Some(Setting::new(Some(value), Origin::config(object, key)))
        };
        wishes.scale = count(keys.scale, "scale", grammar::SCALE);
        wishes.rolling_updates =
            count(keys.rolling_updates, "rolling_updates", grammar::ROLLING_UPDATES);
        wishes.share =
            self.value(keys.share, object, "share", |text| grammar::share(text).map(Some));
        wishes.depends = self.value(keys.depends, object, "depends", grammar::depends);
    }

    fn probe_times(&mut self, probe: &raw::Probe, object: &str, wishes: &mut Wishes) {
        let mut number = |value: &Option<Spanned<i64>>, key: &str, allowed| {
            let value = self.number(Some(value.clone()?), key, allowed, 0);
            Some(Setting::new(value, Origin::config(object, format!("probe.{key}"))))
        };
        wishes.probe_interval_ms =
            number(&probe.interval_ms, "interval_ms", grammar::PROBE_INTERVAL_MS);
        wishes.probe_timeout_ms =
            number(&probe.timeout_ms, "timeout_ms", grammar::PROBE_TIMEOUT_MS);
        wishes.probe_initial_delay_ms =
            number(&probe.initial_delay_ms, "initial_delay_ms", grammar::PROBE_DELAY_MS);
        wishes.probe_rise = number(&probe.rise, "rise", 1..=1000);
        wishes.probe_fall = number(&probe.fall, "fall", 1..=1000);
        wishes.probe_initial =
            self.value(probe.initial.clone(), object, "probe.initial", grammar::initial_state);
    }

    fn probe_place(
        &mut self,
        text: Option<Spanned<String>>,
        object: &str,
        place: Place,
        wishes: &mut Wishes,
    ) {
        let Some(span) = text.as_ref().map(Spanned::span) else { return };
        let from = self.value(text, object, "probe.place", grammar::place);
        let is_inside = from.as_ref().is_some_and(|it| it.value == ProbePlace::Container);
        if is_inside && place == Place::Service {
            let message = "an address has no inside to be probed from; use node or auto";
            self.problem(span, message.to_owned());
        }
        wishes.probe_place = from;
    }

    fn probe_kind(
        &mut self,
        probe: raw::Probe,
        span: std::ops::Range<usize>,
        object: &str,
        place: Place,
        wishes: &mut Wishes,
    ) {
        let is_command = probe.command.is_some();
        let parts = ProbeParts {
            port: probe
                .port
                .map(|port| self.number(Some(port), "port", 1..=65_535, 1))
                .map(|port| u16::try_from(port).unwrap_or(u16::MAX)),
            path: self.text(probe.path, grammar::path),
            method: self.text(probe.method, grammar::token),
            host: self.text(probe.host, grammar::token),
            status: self.text(probe.status, grammar::statuses),
            body: self.text(probe.body, grammar::body),
            server_name: self.text(probe.server_name, grammar::token),
            verify: probe.verify,
            command: self.command(probe.command),
        };
        let Some(kind) = probe.kind else {
            if parts != ProbeParts::default() {
                let kinds = match place {
                    Place::Defaults => "tcp, http, https, command or docker",
                    Place::Service => "tcp, http or https",
                };
                let message =
                    format!("the key `kind` is missing here; say what the probe does: {kinds}");
                self.problem(span, message);
            }
            return;
        };
        let kind_span = kind.span();
        let Some(word) = self.text(Some(kind), ProbeWord::parse) else { return };
        let is_inside = matches!(word, ProbeWord::Command | ProbeWord::Docker);
        if is_inside && place == Place::Service {
            let message = "a probe of this kind needs a container; use tcp, http, https or none";
            self.problem(kind_span, message.to_owned());
            return;
        }
        if is_command && parts.command.is_none() {
            // That is told already.
            return;
        }
        match parts.assemble(word) {
            Ok(kind) => {
                wishes.probe = Some(Setting::new(kind, Origin::config(object, "probe.kind")));
            }
            Err((part, message)) => self.problem(span, format!("`{part}` {message}")),
        }
    }

    fn command(&mut self, command: Option<Spanned<raw::Command>>) -> Option<Vec<String>> {
        let command = command?;
        let parsed = match command.get_ref() {
            raw::Command::Line(line) => grammar::command(line),
            raw::Command::Words(words) => grammar::words(words.clone()),
        };
        let span = command.span();
        self.accept(parsed.map_err(|what| format!("the command {what}")), span)
    }

    /// A value that is written the same way in labels.
    fn value<T>(
        &mut self,
        text: Option<Spanned<String>>,
        object: &str,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        Some(Setting::new(self.text(text, parse)?, Origin::config(object, key)))
    }

    fn text<T>(
        &mut self,
        text: Option<Spanned<String>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = text?;
        let parsed = parse(text.get_ref())
            .map_err(|what| format!("the value `{}` {what}", text.get_ref().escape_debug()));
        self.accept(parsed, text.span())
    }

    fn ring_size(&mut self, size: &Spanned<i64>) -> Option<u32> {
        let known = u32::try_from(*size.get_ref()).ok().filter(|it| abi::RING_SIZES.contains(it));
        if known.is_none() {
            let sizes: Vec<String> = abi::RING_SIZES.iter().map(u32::to_string).collect();
            let message = format!(
                "`ring_size` is {}; it must be one of {}",
                size.get_ref(),
                sizes.join(", ")
            );
            self.problem(size.span(), message);
        }
        known
    }
}
