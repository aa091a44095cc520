//! Which services are meant by the names in `depends`. Pure; whether they are there is not its business.

use super::ServiceName;

/// Stacks that a name may begin with: one for each underscore, of which names may have many.
const STACKS_MAX: usize = 8;

impl ServiceName {
    /// Its name without what tells its frontends apart: `compose/shop/web` of
    /// `compose/shop/web:80@192.0.2.10`. Several services, one for each port, have the same.
    #[must_use]
    pub fn base(&self) -> &str {
        let name = self.0.split_once('@').map_or(&*self.0, |(name, _)| name);
        name.rsplit_once(':').map_or(name, |(name, _)| name)
    }

    /// The bases that `other` may mean when this service depends on it, the likeliest first: services of
    /// the same Compose project, or of the same stack, which Swarm writes in front of their names.
    pub fn meant<'a>(&'a self, other: &'a str) -> impl Iterator<Item = String> + 'a {
        let base = self.base();
        let (family, own) = base.rsplit_once('/').unwrap_or(("", base));
        let stacks = own.match_indices('_').map(|(end, _)| &own[..=end]);
        // A stack's name may have underscores, too.
        let stacks = stacks.rev().filter(move |_| family == "swarm").take(STACKS_MAX);
        stacks.chain([""]).map(move |stack| match family {
            "" => other.to_owned(),
            family => format!("{family}/{stack}{other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{STACKS_MAX, ServiceName};

    #[test]
    fn bases_leave_ports_and_frontends_out() {
        let check = |name: &str, expected: &str| {
            assert_eq!(ServiceName(name.into()).base(), expected, "{name}");
        };
        check("compose/shop/web:80", "compose/shop/web");
        check("docker/redis:6379@192.0.2.10:6379", "docker/redis");
        check("docker/redis:6379@[2001:db8::1]:6379", "docker/redis");
        check("web", "web");
    }

    #[test]
    fn names_mean_services_beside_the_one_that_says_them() {
        let check = |name: &str, other: &str, expected: &[&str]| {
            let name = ServiceName(name.into());
            assert_eq!(name.meant(other).collect::<Vec<_>>(), expected, "{name} {other}");
        };
        check("compose/shop/web:80", "db", &["compose/shop/db"]);
        check("compose/my_shop/web:80", "db", &["compose/my_shop/db"]);
        check("swarm/web:80", "db", &["swarm/db"]);
        check("swarm/shop_web:80", "db", &["swarm/shop_db", "swarm/db"]);
        check(
            "swarm/my_shop_web:80",
            "my_shop_db",
            &["swarm/my_shop_my_shop_db", "swarm/my_my_shop_db", "swarm/my_shop_db"],
        );
        check("web", "db", &["db"]);
        let many = ServiceName(format!("swarm/{}web:80", "_".repeat(80)).into());
        assert_eq!(many.meant("db").count(), STACKS_MAX + 1);
    }
}
