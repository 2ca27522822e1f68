//! What another configuration changes of a node beside its server.

use postroad::config::{Change, Effect};

use super::print::listener;
use super::{NodeConfig, Register};

impl NodeConfig {
    /// What differs of listeners and registering, between what runs and another configuration.
    pub(crate) fn changes_of_node(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let listeners = |of: &Self| {
            let each = of
                .listen
                .iter()
                .map(|endpoint| listener(endpoint).join(", "));
            each.collect::<Vec<_>>().join("; ")
        };
        let (from, to) = (listeners(self), listeners(next));
        if from != to {
            changes.push(Change::new("listen", from, to, Effect::NextStart));
        }
        let (from, to) = (self.admin.listen(), next.admin.listen());
        if from != to {
            let [from, to] = [from, to].map(|listen| listen.to_string());
            changes.push(Change::new("admin.listen", from, to, Effect::NextStart));
        }
        let nothing = Register::default();
        let settings = |of: &Self| of.register.as_ref().unwrap_or(&nothing).settings();
        let is_registered = self.register.is_some() && next.register.is_some();
        for ((key, from, can_change), (_, to, _)) in settings(self).into_iter().zip(settings(next))
        {
            if from == to {
                continue;
            }
            let effect = match can_change && is_registered {
                true => Effect::Now,
                false => Effect::NextStart,
            };
            let [from, to] = [from, to].map(|value| value.unwrap_or_else(|| "none".to_owned()));
            changes.push(Change::new(format!("register.{key}"), from, to, effect));
        }
        changes
    }

    /// Where the node is registered, with the weight, tag and zone of another configuration.
    pub(crate) fn weighed_as(&self, next: &Self) -> Option<Register> {
        let register = self.register.as_ref()?;
        Some(match &next.register {
            Some(next) => register.weighed_as(next),
            // It stays where it is until the next start.
            None => register.clone(),
        })
    }
}
