//! An answer as data.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::explain::{self, Explanation, words};
use crate::engine::{Engine, PortId, Taken, Verdict};
use crate::wire::Link;

/// Why a packet goes where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The packet.
    pub packet: String,
    /// It was made for the question.
    pub made_up: bool,
    /// Port it comes in on.
    pub port: String,
    /// Every step of its way.
    pub steps: Vec<Step>,
    /// What becomes of it: `sent`, `answered`, `waits`, `split` or `dropped`.
    pub verdict: Outcome,
    /// The name of the drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    /// Port it leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    /// Its real server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What was assumed where nobody could be asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
}

/// A packet that passed, and why it went where it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The frame as it came, in hexadecimal digits.
    pub frame: String,
    /// It is a bare IP packet.
    pub bare: bool,
    /// Packets before it that matched and were not explained, because there were too many at once.
    pub missed: u64,
    /// Why.
    pub report: Report,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It leaves as itself.
    Sent,
    /// It was for the director, which answers or learns.
    Answered,
    /// It is kept: for a neighbour's answer, or for other fragments.
    Waits,
    /// It leaves in pieces.
    Split,
    /// It is dropped.
    Dropped,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub step: String,
    /// What it was decided by.
    pub inputs: Facts,
    /// What came of it.
    pub result: String,
}

/// Named facts; a JSON object whose order is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(pub Vec<(String, Fact)>);

/// A fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// Yes or no.
    Flag(bool),
    /// A number.
    Number(u64),
    /// Words.
    Text(String),
    /// Things with the same facts each.
    Rows(Vec<Facts>),
}

impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (name, fact) in &self.0 {
            map.serialize_entry(name, fact)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Facts {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Facts, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Facts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Facts, M::Error> {
                let mut facts = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    facts.push(entry);
                }
                Ok(Facts(facts))
            }
        }
        d.deserialize_map(InOrder)
    }
}

impl From<&explain::Facts> for Facts {
    fn from(facts: &explain::Facts) -> Facts {
        Facts(facts.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect())
    }
}

impl From<&explain::Value> for Fact {
    fn from(value: &explain::Value) -> Fact {
        match value {
            explain::Value::Text(text) => Fact::Text(text.clone()),
            explain::Value::Number(n) => Fact::Number(*n),
            explain::Value::Flag(yes) => Fact::Flag(*yes),
            explain::Value::Rows(rows) => Fact::Rows(rows.iter().map(Facts::from).collect()),
        }
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Send(_) => Outcome::Sent,
            Verdict::Taken(Taken::Local) => Outcome::Answered,
            Verdict::Taken(Taken::Parked | Taken::Reassembling) => Outcome::Waits,
            Verdict::Taken(Taken::Split) => Outcome::Split,
            // no explanation ends so: a twin stands for all workers
            Verdict::HandTo(_) | Verdict::Taken(Taken::Handed) => Outcome::Waits,
            Verdict::Drop(_) => Outcome::Dropped,
        }
    }
}

impl Report {
    /// What the engine told about a frame on `port`.
    pub fn new(engine: &Engine, port: PortId, frame: &[u8], made_up: bool, told: &Explanation) -> Report {
        let plan = engine.host().plan();
        let name = |port: PortId| {
            plan.ports.get(usize::from(port.0)).map_or_else(|| format!("#{}", port.0), |p| p.name.clone())
        };
        let link = plan.ports.get(usize::from(port.0)).map_or(Link::Ethernet, |p| p.link);
        let step = |s: &explain::Step| Step {
            step: s.name.to_owned(),
            inputs: (&s.inputs).into(),
            result: s.result.clone(),
        };
        let drop = match told.verdict {
            Verdict::Drop(why) => Some(why.name().to_owned()),
            Verdict::Send(_) | Verdict::Taken(_) | Verdict::HandTo(_) => None,
        };
        Report {
            packet: words::frame(frame, link),
            made_up,
            port: name(port),
            steps: told.steps.iter().map(step).collect(),
            verdict: told.verdict.into(),
            drop,
            out: told.output.as_ref().map(|(to, _)| name(*to)),
            server: told.server.map(|s| s.to_string()),
            assumed: Vec::new(),
        }
    }

    /// True when the packet is dropped.
    pub fn is_drop(&self) -> bool {
        self.verdict == Outcome::Dropped
    }

    /// True when the packet is of a connection that was there before.
    pub fn is_known(&self) -> bool {
        self.steps.iter().any(|s| s.step == "connection" && s.result.starts_with("known"))
    }

    /// In one line: for a packet's comment in a capture.
    pub fn line(&self) -> String {
        let end = self.steps.last().map_or("", |s| s.result.as_str());
        match &self.server {
            Some(server) => format!("server {server}; {end}"),
            None => end.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_keep_their_order_through_json() {
        let row = |n| Facts(vec![("weight".into(), Fact::Number(n)), ("active".into(), Fact::Number(0))]);
        let facts = Facts(vec![
            ("scheduler".into(), Fact::Text("rr".into())),
            ("fallback".into(), Fact::Flag(false)),
            ("servers".into(), Fact::Rows(vec![row(2), row(1)])),
        ]);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(
            text,
            r#"{"scheduler":"rr","fallback":false,"servers":[{"weight":2,"active":0},{"weight":1,"active":0}]}"#
        );
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
    }
}
