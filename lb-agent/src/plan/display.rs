//! Plans and kernel states for people: one fact per line, in a fixed order.

use std::{collections::BTreeMap, fmt};

use lb_common::abi::{
    FRONTEND_DROPS, SLOT_MOVING, SLOT_SETTLED, TAKES_NEW, TAKES_OLD, TAKES_OLD_DATAGRAMS,
    affinity_prefix_bits,
};

use super::{
    Action, KernelBackend, KernelRing, KernelState, NameHash, Plan, ReplyDefault, ReplyPort, Slots,
};
use crate::model::BackendPath;

struct Hash(NameHash);

impl fmt::Display for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell names apart in a dump.
        write!(formatter, "#{:08x}", self.0[0] >> 32)
    }
}

struct Takes(u8);

impl fmt::Display for Takes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match (self.0 & TAKES_NEW != 0, self.0 & TAKES_OLD != 0) {
            (true, true) => "takes new and old",
            (true, false) => "takes new",
            (false, true) => "takes old",
            (false, false) => "takes nothing",
        })?;
        // Unhealthy.
        if self.0 & TAKES_OLD != 0 && self.0 & TAKES_OLD_DATAGRAMS == 0 {
            formatter.write_str(" but datagrams")?;
        }
        Ok(())
    }
}

/// How many slots each backend has.
struct Shares<'a>(&'a Slots);

impl fmt::Display for Shares<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
        for slot in self.0 {
            *shares.entry(slot.cur()).or_default() += 1;
        }
        for (index, (backend, count)) in shares.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match backend {
                lb_common::abi::BACKEND_NONE => write!(formatter, "{comma}nobody {count}")?,
                backend => write!(formatter, "{comma}{backend} x {count}")?,
            }
        }
        for (state, word) in [(SLOT_MOVING, "moving"), (SLOT_SETTLED, "settled")] {
            let count = self.0.iter().filter(|slot| slot.state() == state).count();
            if count > 0 {
                write!(formatter, "; {count} {word}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for KernelRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, start, shares) = (self.slots.len(), self.start, Shares(&self.slots));
        write!(formatter, "{size} slots at {start}, epoch {}: {shares}", self.epoch)
    }
}

impl fmt::Display for KernelBackend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, generation, address, .. } = self;
        write!(formatter, "{} {address} ", Hash(self.instance_hash))?;
        match self.path {
            BackendPath::Local { ifindex } => write!(formatter, "by veth {ifindex}")?,
            BackendPath::Routed => write!(formatter, "routed")?,
        }
        write!(formatter, ", service {service}, generation {generation}, {}", Takes(self.state))?;
        formatter.write_str(if self.records_replies { "" } else { ", replies by default" })
    }
}

impl fmt::Display for ReplyPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{} at veth {}", self.protocol, self.address, self.ifindex)
    }
}

impl fmt::Display for ReplyDefault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of backend {}", self.vip, self.backend)?;
        if self.front_ifindex != 0 {
            write!(formatter, " by front {}", self.front_ifindex)?;
        }
        formatter.write_str(if self.is_ambiguous { ", ambiguous" } else { "" })?;
        formatter.write_str(if self.has_other_ways { ", other ways in" } else { "" })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttachReply { ifindex } => write!(formatter, "veth {ifindex}: attach"),
            Self::DetachReply { ifindex } => write!(formatter, "veth {ifindex}: detach"),
            Self::SetFlags { flags } => write!(formatter, "flags: {flags:#x}"),
            Self::WriteService { number, name_hash } => {
                write!(formatter, "service {number}: write {}", Hash(*name_hash))
            }
            Self::ClearService { number } => write!(formatter, "service {number}: clear"),
            Self::WriteBackend { number, backend } => {
                write!(formatter, "backend {number}: write {backend}")
            }
            Self::SetBackendState { number, state } => {
                write!(formatter, "backend {number}: {}", Takes(*state))
            }
            Self::ClearBackend { number } => write!(formatter, "backend {number}: clear"),
            Self::PublishRing { ring, content } => {
                write!(formatter, "ring {ring}: publish {content}")
            }
            Self::ClearRing { ring } => write!(formatter, "ring {ring}: clear"),
            Self::PutVip { vip } => write!(formatter, "vip {vip}: put"),
            Self::DeleteVip { vip } => write!(formatter, "vip {vip}: delete"),
            Self::PutFrontend { frontend, service, records_replies, flags } => {
                write!(formatter, "frontend {frontend}: put service {service}")?;
                formatter.write_str(if *records_replies { ", recorded" } else { "" })?;
                write!(formatter, "{}", FrontendFlags(*flags))
            }
            Self::SetRecordsReplies { number, records_replies: true } => {
                write!(formatter, "backend {number}: record replies")
            }
            Self::SetRecordsReplies { number, .. } => {
                write!(formatter, "backend {number}: replies by default")
            }
            Self::PutReplyDefault { port, default } => {
                write!(formatter, "replies of {port}: put {default}")
            }
            Self::DeleteReplyDefault { port } => write!(formatter, "replies of {port}: delete"),
            Self::PutLocal { prefix, kind } => write!(formatter, "local {prefix}: put, {kind}"),
            Self::DeleteLocal { prefix } => write!(formatter, "local {prefix}: delete"),
            Self::DeleteFrontend { frontend } => write!(formatter, "frontend {frontend}: delete"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            writeln!(formatter, "{action}")?;
        }
        for refusal in &self.refusals {
            writeln!(formatter, "refused: {}: {}", refusal.object, refusal.message)?;
        }
        if let Some(due_ms) = self.due_ms {
            writeln!(formatter, "again at {due_ms} ms")?;
        }
        Ok(())
    }
}

/// What is said of a frontend beside its service.
struct FrontendFlags(u32);

impl fmt::Display for FrontendFlags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 & FRONTEND_DROPS != 0 {
            formatter.write_str(", drops")?;
        }
        match affinity_prefix_bits(self.0) {
            Some(bits) => write!(formatter, ", affinity by {bits} bits"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for KernelState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "flags {:#x}", self.flags)?;
        for vip in &self.vips {
            writeln!(formatter, "vip {vip}")?;
        }
        for (frontend, service) in &self.frontends {
            let is_recorded = self.recorded_frontends.contains(frontend);
            let recorded = if is_recorded { ", recorded" } else { "" };
            let flags = self.frontend_flags.get(frontend).copied().unwrap_or(0);
            let flags = FrontendFlags(flags);
            writeln!(formatter, "frontend {frontend} -> service {service}{recorded}{flags}")?;
        }
        for (number, name_hash) in &self.services {
            writeln!(formatter, "service {number} {}", Hash(*name_hash))?;
        }
        for (number, ring) in &self.rings {
            writeln!(formatter, "ring {number}: {ring}")?;
        }
        for (number, backend) in &self.backends {
            writeln!(formatter, "backend {number}: {backend}")?;
        }
        for (number, generation) in &self.free_generations {
            writeln!(formatter, "backend {number}: free, generation {generation}")?;
        }
        for (port, default) in &self.reply_defaults {
            writeln!(formatter, "replies of {port}: {default}")?;
        }
        for (prefix, kind) in &self.local {
            writeln!(formatter, "local {prefix}: {kind}")?;
        }
        for ifindex in &self.reply_interfaces {
            writeln!(formatter, "veth {ifindex}: attached")?;
        }
        Ok(())
    }
}
