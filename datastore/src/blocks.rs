//! `.status/blocks/`: which node holds which block of a pool, one file a block, made by the node that claims it.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use api::Resource;
use api::resources::IpamBlock;
use ipnet::IpNet;
use serde_json::Value;

use crate::Error;
use crate::directory::{self, FileRead};
use crate::document::Fault;
use crate::held::Held;

/// The folder in the status folder.
pub(crate) const BLOCKS_FOLDER: &str = "blocks";

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The block is this node's, perhaps since long ago.
    Ours,
    /// The block is another node's, or its file cannot be understood (then it is nobody's name).
    Taken {
        /// Whose.
        node: Option<String>,
    },
}

/// What is in force of a block's file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BlockContents {
    pub(crate) block: Option<IpamBlock>,
    pub(crate) faults: Vec<Fault>,
}

impl Held for BlockContents {
    fn read(file_name: &str, file: &FileRead) -> Self {
        match parse(file_name, file.text_or_reason()) {
            Ok(block) => Self {
                block: Some(block),
                faults: Vec::new(),
            },
            Err(message) => Self {
                block: None,
                faults: vec![Fault {
                    line: None,
                    object: None,
                    message: format!("it is ignored: {message}"),
                }],
            },
        }
    }

    fn is_broken(&self) -> bool {
        !self.faults.is_empty()
    }

    /// A claim is linked into place, so what is missing is never still to come.
    fn loses(&self, _: &Self) -> bool {
        false
    }

    fn with_complaints_of(self, broken: Self) -> Self {
        Self {
            block: self.block,
            faults: broken.faults,
        }
    }
}

fn parse(file_name: &str, text: Result<&str, &str>) -> Result<IpamBlock, String> {
    let value: Value = serde_json::from_str(text?).map_err(|error| error.to_string())?;
    let field = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, api_version) = (field("kind").to_owned(), field("apiVersion").to_owned());
    let read = api::parse(&kind, &api_version, value).map_err(|error| error.to_string())?;
    let Some((_, Resource::IpamBlock(block))) = read else {
        return Err("it holds no IPAMBlock".to_owned());
    };
    let right = file_name_of(&block.cidr);
    match file_name == right {
        true => Ok(block),
        false => Err(format!(
            "the file of block {} is called {right}",
            block.cidr
        )),
    }
}

/// `10.48.0.64_26.json`, `fd00_48__40_122.json`: no two blocks share one.
pub(crate) fn file_name_of(cidr: &IpNet) -> String {
    format!("{}.json", cidr.to_string().replace(['/', ':'], "_"))
}

/// Claims and releases blocks for one node.
#[derive(Debug)]
pub(crate) struct Claims {
    folder: PathBuf,
    node: String,
}

impl Claims {
    pub(crate) fn new(status_folder: &Path, node: &str) -> Self {
        Self {
            folder: status_folder.join(BLOCKS_FOLDER),
            node: node.to_owned(),
        }
    }

    /// Link(2) gives a name to a whole file, or fails where the name is given: of many nodes exactly one succeeds, and a
    /// crash before it leaves nothing that counts.
    pub(crate) fn claim(&self, cidr: &IpNet) -> Result<Claim, Error> {
        let name = file_name_of(cidr);
        let path = self.folder.join(&name);
        let work = || {
            fs::create_dir_all(&self.folder)?;
            self.remove_drafts()?;
            let draft = self.folder.join(format!(".{name}{}", self.draft_ending()));
            self.write_draft(&draft, cidr)?;
            let linked = fs::hard_link(&draft, &path);
            fs::remove_file(&draft)?;
            match linked {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let node = self.holder(&name);
                    return Ok(match node.as_deref() == Some(&self.node) {
                        true => Claim::Ours,
                        false => Claim::Taken { node },
                    });
                }
                Err(error) => return Err(error),
            }
            File::open(&self.folder)?.sync_all()?;
            Ok(Claim::Ours)
        };
        work().map_err(|source| Error::Claim {
            cidr: *cidr,
            path: path.clone(),
            source,
        })
    }

    /// A block that is nobody's is released already.
    pub(crate) fn release(&self, cidr: &IpNet) -> Result<(), Error> {
        let name = file_name_of(cidr);
        let path = self.folder.join(&name);
        if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let node = self.holder(&name);
        if node.as_deref() != Some(&self.node) {
            return Err(Error::NotOurs { cidr: *cidr, node });
        }
        let work = || {
            fs::remove_file(&path)?;
            File::open(&self.folder)?.sync_all()
        };
        work().map_err(|source| Error::Status {
            path: path.clone(),
            source,
        })
    }

    /// Who holds the block of that file.
    fn holder(&self, name: &str) -> Option<String> {
        let text = directory::read_link_free(&self.folder.join(name)).ok()?;
        Some(parse(name, Ok(&text)).ok()?.node)
    }

    fn write_draft(&self, draft: &Path, cidr: &IpNet) -> io::Result<()> {
        let block = IpamBlock {
            cidr: *cidr,
            node: self.node.clone(),
        };
        let mut text = serde_json::to_vec_pretty(&block.manifest())?;
        text.push(b'\n');
        let mut file = File::options().write(true).create_new(true).open(draft)?;
        file.write_all(&text)?;
        file.sync_all()
    }

    /// What a killed agent of this node left.
    fn remove_drafts(&self) -> io::Result<()> {
        let ending = self.draft_ending();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ours = name
                .to_str()
                .is_some_and(|name| name.starts_with('.') && name.ends_with(&ending));
            if is_ours {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Nodes' names are too long to stand beside a CIDR's.
    fn draft_ending(&self) -> String {
        let mut hash = DefaultHasher::new();
        self.node.hash(&mut hash);
        format!(".{:016x}", hash.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr() -> IpNet {
        "10.48.0.64/26".parse().expect("a CIDR")
    }

    #[test]
    fn an_agent_killed_before_the_link_has_claimed_nothing_and_leaves_no_draft_for_ever() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (
            Claims::new(folder.path(), "node1"),
            Claims::new(folder.path(), "node2"),
        );
        let blocks = folder.path().join(BLOCKS_FOLDER);
        fs::create_dir(&blocks).expect("a folder");
        let draft = blocks.join(format!(".10.48.0.64_26.json{}", one.draft_ending()));
        one.write_draft(&draft, &cidr()).expect("a draft");
        assert_eq!(one.holder("10.48.0.64_26.json"), None);
        assert_eq!(other.claim(&cidr()).expect("it is free"), Claim::Ours);
        assert!(draft.exists(), "node2 leaves what is node1's alone");
        let taken = Claim::Taken {
            node: Some("node2".to_owned()),
        };
        assert_eq!(one.claim(&cidr()).expect("an answer"), taken);
        let names = fs::read_dir(&blocks).expect("a folder");
        let names: Vec<_> = names
            .map(|entry| entry.expect("a file").file_name())
            .collect();
        assert_eq!(names, ["10.48.0.64_26.json"]);
    }

    #[test]
    fn an_agent_killed_after_the_link_has_its_block() {
        let folder = tempfile::tempdir().expect("a folder");
        let claims = Claims::new(folder.path(), "node1");
        assert_eq!(claims.claim(&cidr()).expect("it is free"), Claim::Ours);
        let again = Claims::new(folder.path(), "node1");
        assert_eq!(again.claim(&cidr()).expect("it is ours"), Claim::Ours);
    }

    #[test]
    fn a_block_is_released_by_its_node_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (
            Claims::new(folder.path(), "node1"),
            Claims::new(folder.path(), "node2"),
        );
        one.claim(&cidr()).expect("it is free");
        let error = other
            .release(&cidr())
            .expect_err("it is node1's")
            .to_string();
        assert_eq!(
            error,
            "the block 10.48.0.64/26 is held by node1: only its node releases it"
        );
        one.release(&cidr()).expect("it is ours");
        one.release(&cidr()).expect("it is gone");
        assert_eq!(other.claim(&cidr()).expect("it is free"), Claim::Ours);
    }

    #[test]
    fn where_nothing_can_be_written_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        // A file where the folder should be makes every write fail, for root too.
        fs::write(folder.path().join(BLOCKS_FOLDER), "").expect("a file");
        let claims = Claims::new(folder.path(), "node1");
        let error = claims.claim(&cidr()).expect_err("no folder").to_string();
        assert!(
            error.starts_with("cannot claim the block 10.48.0.64/26 as ")
                && error.ends_with("must be writable, on a file system with hard links"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_says_something_else_than_its_name_is_nobodys_claim() {
        let of = |cidr: &str, node: &str| {
            let block = IpamBlock {
                cidr: cidr.parse().expect("a CIDR"),
                node: node.to_owned(),
            };
            serde_json::to_string(&block.manifest()).expect("it prints")
        };
        let right = of("10.48.0.64/26", "node1");
        assert!(parse("10.48.0.64_26.json", Ok(&right)).is_ok());
        assert!(parse("10.48.0.65_26.json", Ok(&right)).is_err());
        for text in [
            "",
            "{}",
            "null",
            &of("10.48.0.64/26", "../node1"),
            &right.replace("IPAMBlock", "IPPool"),
            &right.replace("10-48-0-64-26", "other"),
        ] {
            assert!(parse("10.48.0.64_26.json", Ok(text)).is_err(), "{text}");
        }
        let v6 = of("fd00:48::40/122", "node1");
        assert!(parse("fd00_48__40_122.json", Ok(&v6)).is_ok());
    }
}
