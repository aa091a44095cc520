//! Questions as they come over the wire, and answers as they go.

use std::{net::IpAddr, sync::Arc};

use hickory_resolver::{
    TokioResolver,
    proto::{
        op::{Header, MessageType, OpCode, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata},
    },
};
use hickory_server::{
    authority::MessageResponseBuilder,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
};
use tokio::sync::watch;

use super::{
    activity::Activity,
    table::{Answer, Names, Question},
};
use crate::api::types::View;

/// What answers questions.
#[derive(Debug, Clone)]
pub(super) struct Handler {
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) activity: Arc<Activity>,
    pub(super) ttl_seconds: u32,
    pub(super) has_compose_names: bool,
    /// Who is asked for names that are not ours.
    pub(super) forward: Option<Arc<TokioResolver>>,
}

/// What goes back.
#[derive(Debug, Default)]
struct Reply {
    code: ResponseCode,
    is_ours: bool,
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        self.activity.note_asker(request.src().ip());
        let reply = self.reply(request).await;
        let mut header = Header::response_from_request(request.header());
        header.set_response_code(reply.code);
        header.set_authoritative(reply.is_ours);
        header.set_recursion_available(self.forward.is_some());
        let builder = MessageResponseBuilder::from_message_request(request);
        let response = builder.build(
            header,
            reply.answers.iter(),
            std::iter::empty(),
            std::iter::empty(),
            reply.additionals.iter(),
        );
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!("names: no answer to {}: {error}", request.src());
                let mut header = Header::new();
                header.set_response_code(ResponseCode::ServFail);
                header.into()
            }
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        if request.message_type() != MessageType::Query || request.op_code() != OpCode::Query {
            return Reply::code(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return Reply::code(ResponseCode::FormErr) };
        let kind = info.query.query_type();
        let question = match kind {
            RecordType::A => Question::V4,
            RecordType::AAAA => Question::V6,
            RecordType::SRV => Question::Ports,
            _ => Question::Other,
        };
        let name: Name = info.query.name().into();
        let text = name.to_utf8();
        let names = Names::of(&self.view.borrow(), self.has_compose_names);
        match names.answer(&text, question) {
            Answer::Unknown => self.forward(name, kind).await,
            Answer::Addresses(addresses) => Reply {
                is_ours: true,
                answers: self.addresses(&name, &addresses),
                ..Reply::default()
            },
            Answer::Ports { target, ports, addresses } => {
                self.ports(&name, &target, &ports, &addresses)
            }
        }
    }

    fn ports(&self, name: &Name, target: &str, ports: &[u16], addresses: &[IpAddr]) -> Reply {
        let Ok(mut target) = Name::from_utf8(target) else {
            return Reply::code(ResponseCode::ServFail);
        };
        target.set_fqdn(true);
        let record = |port: &u16| {
            let data = rdata::SRV::new(0, 0, *port, target.clone());
            Record::from_rdata(name.clone(), self.ttl_seconds, RData::SRV(data))
        };
        Reply {
            is_ours: true,
            answers: ports.iter().map(record).collect(),
            additionals: self.addresses(&target, addresses),
            ..Reply::default()
        }
    }

    fn addresses(&self, name: &Name, addresses: &[IpAddr]) -> Vec<Record> {
        let record = |address: &IpAddr| {
            let data = match address {
                IpAddr::V4(address) => RData::A((*address).into()),
                IpAddr::V6(address) => RData::AAAA((*address).into()),
            };
            Record::from_rdata(name.clone(), self.ttl_seconds, data)
        };
        addresses.iter().map(record).collect()
    }

    /// Names that are not ours: asked elsewhere, or refused, upon which the next server is asked.
    async fn forward(&self, name: Name, kind: RecordType) -> Reply {
        let Some(forward) = &self.forward else { return Reply::code(ResponseCode::Refused) };
        match forward.lookup(name, kind).await {
            Ok(found) => Reply { answers: found.records().to_vec(), ..Reply::default() },
            Err(error) if error.is_nx_domain() => Reply::code(ResponseCode::NXDomain),
            Err(error) if error.is_no_records_found() => Reply::default(),
            Err(_) => Reply::code(ResponseCode::ServFail),
        }
    }
}
