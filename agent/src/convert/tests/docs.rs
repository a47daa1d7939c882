//! The examples of docs/from-*.md: what stands first becomes what stands second.

use datastore::read_documents;

use super::*;

const PAGES: [(&str, &str, usize); 3] = [
    ("calico", include_str!("../../../../docs/from-calico.md"), 1),
    (
        "kube-router",
        include_str!("../../../../docs/from-kube-router.md"),
        1,
    ),
    (
        "metallb",
        include_str!("../../../../docs/from-metallb.md"),
        1,
    ),
];

#[test]
fn every_example_becomes_what_the_page_says() {
    for (whose, page, at_least) in PAGES {
        let marker = format!("```yaml {whose}\n");
        let pairs: Vec<&str> = page.split(&marker).skip(1).collect();
        assert!(pairs.len() >= at_least, "{whose}");
        for pair in pairs {
            let (input, rest) = pair.split_once("```\n").unwrap();
            let output = rest.split_once("```yaml\n").unwrap().1;
            let output = output.split_once("```").unwrap().0;
            let conversion = converted(input);
            let written: Vec<&Value> = conversion
                .objects
                .iter()
                .map(|object| &object.value)
                .collect();
            let expected = read_documents(output).unwrap();
            let expected: Vec<&Value> = expected.iter().map(|document| &document.value).collect();
            assert_eq!(written, expected, "{whose}");
        }
    }
}

#[test]
fn what_the_pages_call_carried_over_is() {
    for (whose, page, _) in PAGES {
        let marker = format!("```yaml {whose}\n");
        let input = page
            .split_once(&marker)
            .unwrap()
            .1
            .split_once("```\n")
            .unwrap()
            .0;
        let none = converted(input).counts.no_counterpart;
        assert_eq!(none, 0, "{whose}");
    }
}
