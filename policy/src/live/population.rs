//! Everyone who is a pod to others, by namespace, as the sets were last told.

use std::collections::BTreeMap;

use api::Labels;
use netfilter::InterfaceName;

use crate::meaning::{NamespaceChoice, PodChoice};
use crate::people::Person;

/// Whose word a person stands on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A Pod object's.
    Pod(String),
    /// An endpoint's, whose Pod object is unknown or another's.
    Endpoint(InterfaceName),
}

/// The people, and the labels of their namespaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Population {
    people: BTreeMap<String, BTreeMap<Who, Person>>,
    labels: BTreeMap<String, Labels>,
}

impl Population {
    /// The labels of a namespace, if it is known.
    pub(crate) fn labels(&self, namespace: &str) -> Option<&Labels> {
        self.labels.get(namespace)
    }

    /// Takes a namespace's labels; gives those that were.
    pub(crate) fn set_labels(
        &mut self,
        namespace: &str,
        labels: Option<&Labels>,
    ) -> Option<Labels> {
        match labels {
            Some(labels) => self.labels.insert(namespace.to_owned(), labels.clone()),
            None => self.labels.remove(namespace),
        }
    }

    /// One person.
    pub(crate) fn get(&self, namespace: &str, who: &Who) -> Option<&Person> {
        self.people.get(namespace)?.get(who)
    }

    /// Takes a person; gives the one that was.
    pub(crate) fn set(
        &mut self,
        namespace: &str,
        who: Who,
        person: Option<Person>,
    ) -> Option<Person> {
        if let Some(person) = person {
            let people = self.people.entry(namespace.to_owned()).or_default();
            return people.insert(who, person);
        }
        let people = self.people.get_mut(namespace)?;
        let old = people.remove(&who);
        if people.is_empty() {
            self.people.remove(namespace);
        }
        old
    }

    /// Everyone of a namespace.
    pub(crate) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Person> {
        self.people
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Everyone who is chosen.
    pub(crate) fn chosen<'a>(
        &'a self,
        choice: &'a PodChoice,
    ) -> Box<dyn Iterator<Item = &'a Person> + 'a> {
        let matches = |person: &&Person| choice.pods.matches(person.labels());
        match &choice.namespaces {
            NamespaceChoice::Own(namespace) => {
                Box::new(self.of_namespace(namespace).filter(matches))
            }
            wide => {
                let namespaces = self.people.iter();
                let chosen =
                    namespaces.filter(move |(name, _)| wide.chooses(name, self.labels.get(*name)));
                Box::new(
                    chosen
                        .flat_map(|(_, people)| people.values())
                        .filter(matches),
                )
            }
        }
    }
}
