//! What the programs see of the health of backends, and what may be asked about it.
//!
//! Apart from everything else that this module's parent owns: whoever follows it must wait neither for
//! a plan nor for a sweep.

use std::{fmt, path::Path};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, RingBuf},
};
use lb_common::abi::{
    BackendCounters, BackendIdentity, OBSERVATION_REFUSED, OBSERVATION_SILENT, Observation,
    map_names,
};
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::FromBytes as _;

use super::tables::take;
use crate::health::{self, Sign, Witness};

/// Observations and counters of the programs.
pub struct Observations {
    ring: RingBuf<MapData>,
    identities: Array<MapData, BackendIdentity>,
    counters: PerCpuArray<MapData, BackendCounters>,
}

impl fmt::Debug for Observations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observations")
    }
}

/// What the programs tell, as it comes.
pub struct Observer {
    ring: AsyncFd<RingBuf<MapData>>,
    identities: Array<MapData, BackendIdentity>,
}

/// What the programs have counted of a backend.
struct Counted(PerCpuArray<MapData, BackendCounters>);

impl Observations {
    /// Takes the ring buffer out of the loaded object, and opens by their pins what others have, too.
    pub(super) fn take(ebpf: &mut Ebpf, maps: &Path) -> anyhow::Result<Self> {
        let pinned = |name: &str| {
            let path = maps.join(name);
            MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))
        };
        let counters = Map::PerCpuArray(pinned(map_names::BACKEND_COUNTERS)?);
        Ok(Self {
            ring: RingBuf::try_from(take(ebpf, map_names::OBSERVATIONS)?)?,
            identities: Array::try_from(Map::Array(pinned(map_names::BACKEND_IDENTITIES)?))?,
            counters: PerCpuArray::try_from(counters)?,
        })
    }

    /// Begins to follow them. What was told while no agent ran is old, and forgotten.
    pub fn follow(mut self) -> anyhow::Result<(Observer, impl Witness)> {
        while self.ring.next().is_some() {}
        // SAFETY: the buffer owns its file descriptor from its beginning to its end, and returns that
        // one each time.
        let ring = unsafe { AsyncFd::register_with_interest(self.ring, Interest::READABLE) }
            .context("cannot wait for the ring buffer `OBSERVATIONS`")?;
        Ok((Observer { ring, identities: self.identities }, Counted(self.counters)))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observer")
    }
}

impl Observer {
    /// Waits for observations and hands over all that there are.
    pub async fn next(&mut self, mut each: impl FnMut(health::Observation)) -> anyhow::Result<()> {
        let mut guard = self.ring.readable_mut().await.context("the ring buffer `OBSERVATIONS`")?;
        // Before it is emptied: what comes afterwards makes it ready again.
        guard.clear_ready();
        while let Some(item) = self.ring.get_mut().next() {
            // Another length is none of ours, and cannot be.
            let Ok(observation) = Observation::read_from_bytes(&item) else { continue };
            drop(item);
            each_known(&self.identities, &observation, &mut each);
        }
        Ok(())
    }
}

/// Hands over an observation of a backend whose number is still its own.
fn each_known(
    identities: &Array<MapData, BackendIdentity>,
    observation: &Observation,
    each: &mut impl FnMut(health::Observation),
) {
    let Observation { backend, generation, sign, .. } = *observation;
    let sign = match sign {
        OBSERVATION_REFUSED => Sign::Refused,
        OBSERVATION_SILENT => Sign::Silent,
        _ => return,
    };
    let Ok(identity) = identities.get(&backend, 0) else { return };
    if identity.generation == generation && identity.instance_hash != [0; 2] {
        each(health::Observation { key: identity.instance_hash, backend, sign });
    }
}

impl Witness for Counted {
    fn packets_from(&self, backend: u32) -> Option<u64> {
        let counters = self.0.get(&backend, 0).ok()?;
        Some(counters.iter().map(|counters| counters.packets_out).fold(0, u64::wrapping_add))
    }
}
