//! Takes a list apart while it comes in, so that no more than one of its objects is in memory as text.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

use super::failure::Failure;

/// The longest object, and the longest rest of a list without its objects, in octets.
const LONGEST: usize = 16 << 20;

/// What a list says beside its objects.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMetadata {
    pub(super) resource_version: String,
    /// Where the next page begins; empty on the last one.
    #[serde(rename = "continue")]
    pub(super) continue_: String,
}

/// The text of a list, cut into objects.
#[derive(Debug, Default)]
pub(super) struct Items {
    /// The list without its objects, `{"metadata":…,"items":[]}`.
    shell: Vec<u8>,
    /// The object that is coming in.
    item: BytesMut,
    /// How many brackets are open, and the quotes.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    in_items: bool,
}

impl Items {
    /// Takes more text; gives the objects that end in it.
    pub(super) fn take(&mut self, text: &[u8]) -> Result<Vec<Bytes>, Failure> {
        let mut whole = Vec::new();
        for octet in text {
            let (was_in_items, depth_before) = (self.in_items, self.depth);
            self.step(*octet);
            // Inside of `items`, the depth is 2 between objects.
            let is_of_object =
                was_in_items && self.in_items && (depth_before > 2 || self.depth > 2);
            if is_of_object {
                self.item.extend_from_slice(&[*octet]);
                if self.depth == 2 {
                    whole.push(self.item.split().freeze());
                }
            } else if !was_in_items || !self.in_items {
                self.shell.push(*octet);
            }
        }
        match self.item.len().max(self.shell.len()) > LONGEST {
            true => Err(Failure::Unanswered(format!(
                "an object has more than {LONGEST} octets"
            ))),
            false => Ok(whole),
        }
    }

    /// The end of the text: what the list says of itself.
    pub(super) fn end(self) -> Result<ListMetadata, Failure> {
        #[derive(Deserialize)]
        struct List {
            metadata: ListMetadata,
            #[serde(rename = "items")]
            _items: Option<[(); 0]>,
        }
        if self.depth != 0 || self.shell.is_empty() {
            return Err(Failure::Unanswered("the list breaks off".to_owned()));
        }
        let list: List = serde_json::from_slice(&self.shell)
            .map_err(|error| Failure::Unanswered(format!("this is no list: {error}")))?;
        Ok(list.metadata)
    }

    fn step(&mut self, octet: u8) {
        if self.in_string {
            match octet {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match octet {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                if octet == b'[' && self.depth == 1 && self.ends_with_items() {
                    self.in_items = true;
                }
                self.depth += 1;
            }
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 1 {
                    self.in_items = false;
                }
            }
            _ => {}
        }
    }

    /// Whether the shell ends with the key `items`. A string that says so has its quotes escaped.
    fn ends_with_items(&self) -> bool {
        let mut end = self
            .shell
            .iter()
            .rev()
            .filter(|octet| !octet.is_ascii_whitespace());
        b":\"smeti\"".iter().all(|octet| end.next() == Some(octet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"kind":"PodList","metadata":{"resourceVersion":"17","continue":"c","x":"\"items\":["},"items" : [
        {"a":"]}\\","b":[1,{"c":"\""}]}, {"d":{}},{} ],"z":["items"]}"#;

    fn cut(text: &str, size: usize) -> (Vec<String>, Result<ListMetadata, Failure>) {
        let mut items = Items::default();
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            found.extend(items.take(piece).expect("it is short"));
        }
        let texts = found
            .iter()
            .map(|item| String::from_utf8_lossy(item).trim().to_owned());
        (texts.collect(), items.end())
    }

    #[test]
    fn a_list_is_cut_into_its_objects_wherever_the_text_is_broken() {
        for size in 1..LIST.len() {
            let (items, end) = cut(LIST, size);
            assert_eq!(
                items,
                [r#"{"a":"]}\\","b":[1,{"c":"\""}]}"#, r#"{"d":{}}"#, "{}"],
                "{size}"
            );
            let expected = ListMetadata {
                resource_version: "17".to_owned(),
                continue_: "c".to_owned(),
            };
            assert_eq!(end, Ok(expected), "{size}");
        }
    }

    #[test]
    fn a_list_cut_anywhere_is_an_error() {
        for length in 0..LIST.len() {
            let (_, end) = cut(&LIST[..length], 7);
            assert!(end.is_err(), "{}", &LIST[..length]);
        }
    }

    #[test]
    fn an_empty_list_may_have_no_items_at_all() {
        for items in ["", r#","items":[]"#, r#","items":null"#] {
            let (found, end) = cut(
                &format!(r#"{{"metadata":{{"resourceVersion":"3"}}{items}}}"#),
                5,
            );
            assert!(found.is_empty());
            assert_eq!(end.map(|end| end.resource_version), Ok("3".to_owned()));
        }
    }
}
