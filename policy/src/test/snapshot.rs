//! The text of a small example, so that a change of it is seen.

use api::resources::Protocol;
use expect_test::expect;
use netfilter::{Actual, ActualSets, Effort, plan, plan_sets};

use super::fixture::*;

#[test]
#[expect(clippy::too_many_lines, reason = "the text is long")]
fn a_small_example_renders_so() {
    let mut cluster = Cluster::small();
    let mut one = policy("a/web", "app=x");
    one.ingress = Some(vec![rule(
        Some(vec![
            pods(Some("team=two"), ""),
            block("10.0.0.0/29", &["10.0.0.4/30"]),
        ]),
        Some(vec![
            port(Protocol::Tcp, 80, 80),
            port(Protocol::Tcp, 443, 444),
        ]),
    )]);
    cluster.policies.push(one);
    let compiled = cluster.compile();
    let sets = plan_sets(&ActualSets::default(), &compiled.v4.sets);
    let rules = plan(&Actual::default(), &compiled.v4.rules, Effort::Exact);
    let text = format!(
        "{}{}",
        sets.before.unwrap_or_default(),
        rules.restore.unwrap_or_default()
    );
    expect![[r#"
        create ptl4-endpoints hash:net,iface family inet maxelem 1048576
        add ptl4-endpoints 10.0.0.1/32,ptl00000000001
        add ptl4-endpoints 10.0.0.2/32,ptl00000000002
        create ptl4-guard-in hash:ip family inet maxelem 1048576
        add ptl4-guard-in 10.0.0.1
        create ptl4-guard-out hash:ip family inet maxelem 1048576
        create ptl4-n-0c96313fb12e0b3d hash:net family inet maxelem 1048576
        add ptl4-n-0c96313fb12e0b3d 10.0.0.0/30
        create ptl4-p-7f35fd26c0b5f7f1 hash:ip family inet maxelem 1048576
        add ptl4-p-7f35fd26c0b5f7f1 10.0.1.4
        *raw
        :PTL-PREROUTING - [0:0]
        -A PTL-PREROUTING -p udp -m udp --dport 4789 -m comment --comment "ptl:d63ed98837f5" -j DROP
        -A PTL-PREROUTING -p 4 -m comment --comment "ptl:05c64b3d2f49" -j DROP
        -A PTL-PREROUTING -p 41 -m comment --comment "ptl:22482e80d651" -j DROP
        -A PTL-PREROUTING -m set --match-set ptl4-endpoints src,src -m comment --comment "ptl:9af948a174fd" -j RETURN
        -A PTL-PREROUTING -m comment --comment "ptl:86e88144d6ce" -j DROP
        -I PREROUTING 1 -i ptl+ -m comment --comment "ptl:3ef0bb50b8bd" -j PTL-PREROUTING
        COMMIT
        *filter
        :PTL-ACCEPT - [0:0]
        :PTL-ALLOW - [0:0]
        :PTL-EI-0cb56c022176c2f0 - [0:0]
        :PTL-EI-53c4d33be48997ba - [0:0]
        :PTL-EO-0cb56c022176c2f0 - [0:0]
        :PTL-EO-53c4d33be48997ba - [0:0]
        :PTL-FORWARD - [0:0]
        :PTL-FROM - [0:0]
        :PTL-GI-35258e7862cd1a9f - [0:0]
        :PTL-INPUT - [0:0]
        :PTL-PASS - [0:0]
        :PTL-PI-6e20b8aee91976bb - [0:0]
        :PTL-POD - [0:0]
        :PTL-TO - [0:0]
        -A PTL-ACCEPT -m comment --comment "ptl:7408f52dbb5f" -j MARK --set-xmark 0x10000/0x10000
        -A PTL-ACCEPT -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-ALLOW -m comment --comment "ptl:87fe0584f1b8" -j MARK --set-xmark 0x20000/0x20000
        -A PTL-EI-0cb56c022176c2f0 -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-EI-53c4d33be48997ba -i ptl00000000001 -m comment --comment "ptl:25dfc9b157c3" -j RETURN
        -A PTL-EI-53c4d33be48997ba -m comment --comment "ptl:7009a450738e" -g PTL-GI-35258e7862cd1a9f
        -A PTL-EO-0cb56c022176c2f0 -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-EO-53c4d33be48997ba -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-FORWARD -m comment --comment "ptl:c2564743dbc3" -j MARK --set-xmark 0x0/0xf0000
        -A PTL-FORWARD ! -i ptl+ ! -o ptl+ -m comment --comment "ptl:47aa4d353946" -j RETURN
        -A PTL-FORWARD -m comment --comment "ptl:ce0b7a8f5909" -g PTL-POD
        -A PTL-FROM -i ptl00000000001 -m comment --comment "ptl:251235d099cc" -g PTL-EO-53c4d33be48997ba
        -A PTL-FROM -i ptl00000000002 -m comment --comment "ptl:d95d5bc1af3d" -g PTL-EO-0cb56c022176c2f0
        -A PTL-FROM -m set --match-set ptl4-guard-out src -m comment --comment "ptl:3358e140f3f4" -j DROP
        -A PTL-FROM -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-GI-35258e7862cd1a9f -m comment --comment "ptl:572b7bd905f3" -j MARK --set-xmark 0x0/0x60000
        -A PTL-GI-35258e7862cd1a9f -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -m comment --comment "ptl:6c24bea812d4" -j DROP
        -A PTL-GI-35258e7862cd1a9f -m conntrack --ctstate INVALID -m comment --comment "ptl:21695f04aea5" -j DROP
        -A PTL-GI-35258e7862cd1a9f -m comment --comment "ptl:553e0de5e79a" -j PTL-PI-6e20b8aee91976bb
        -A PTL-GI-35258e7862cd1a9f -m mark --mark 0x20000/0x20000 -m comment --comment "ptl:305290fbedc1" -j RETURN
        -A PTL-GI-35258e7862cd1a9f -m comment --comment "ptl:86e88144d6ce" -j DROP
        -A PTL-INPUT -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-PASS -m comment --comment "ptl:1eeeca142f0d" -j MARK --set-xmark 0x40000/0x40000
        -A PTL-PASS -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-PI-6e20b8aee91976bb -p tcp -m multiport --dports 80,443:444 -m set --match-set ptl4-p-7f35fd26c0b5f7f1 src -m comment --comment "ptl:76a711914aeb" -j MARK --set-xmark 0x20000/0x20000
        -A PTL-PI-6e20b8aee91976bb -p tcp -m multiport --dports 80,443:444 -m set --match-set ptl4-n-0c96313fb12e0b3d src -m mark ! --mark 0x20000/0x20000 -m comment --comment "ptl:60e6838e2f75" -j MARK --set-xmark 0x20000/0x20000
        -A PTL-PI-6e20b8aee91976bb -m comment --comment "ptl:ed15d496518a" -j RETURN
        -A PTL-POD -o ptl+ -m set ! --match-set ptl4-endpoints dst,dst -m comment --comment "ptl:d1d2fa69fc13" -j DROP
        -A PTL-POD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "ptl:aaf2eeac8bb2" -g PTL-ACCEPT
        -A PTL-POD -i ptl+ -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -m set --match-set ptl4-guard-in src -m comment --comment "ptl:77ab38400392" -j DROP
        -A PTL-POD -o ptl+ -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -m set --match-set ptl4-guard-out dst -m comment --comment "ptl:152b24331d1d" -j DROP
        -A PTL-POD -i ptl+ -m comment --comment "ptl:9119c9d72962" -j PTL-FROM
        -A PTL-POD -o ptl+ -m comment --comment "ptl:4cfae73c93ed" -j PTL-TO
        -A PTL-POD -m comment --comment "ptl:d9804fa4cb96" -g PTL-ACCEPT
        -A PTL-TO -o ptl00000000001 -m comment --comment "ptl:043ed2f5ba75" -g PTL-EI-53c4d33be48997ba
        -A PTL-TO -o ptl00000000002 -m comment --comment "ptl:7815f3fb414d" -g PTL-EI-0cb56c022176c2f0
        -A PTL-TO -m set --match-set ptl4-guard-in dst -m comment --comment "ptl:b529eb3c4b0d" -j DROP
        -A PTL-TO -m comment --comment "ptl:ed15d496518a" -j RETURN
        -I FORWARD 1 -m comment --comment "ptl:052b4d9b5143" -j PTL-FORWARD
        -I FORWARD 2 -m mark --mark 0x10000/0x10000 -m comment --comment "ptl:adc6c27b733e" -j ACCEPT
        -I INPUT 1 -i ptl+ -m comment --comment "ptl:72f3513d7b9f" -j PTL-INPUT
        COMMIT
        *mangle
        :PTL-GUARD - [0:0]
        -A PTL-GUARD -m mark --mark 0x10000/0x10000 -m comment --comment "ptl:498fd6d83e9b" -j RETURN
        -A PTL-GUARD -m addrtype --src-type LOCAL -m comment --comment "ptl:dc1f0521be98" -j RETURN
        -A PTL-GUARD -o ptl+ -m set --match-set ptl4-guard-in dst -m comment --comment "ptl:903d629bad13" -j DROP
        -A PTL-GUARD -m set --match-set ptl4-guard-out src -m comment --comment "ptl:3358e140f3f4" -j DROP
        -A PTL-GUARD -m comment --comment "ptl:ed15d496518a" -j RETURN
        -I POSTROUTING 1 -m comment --comment "ptl:631dab2524a4" -j PTL-GUARD
        COMMIT
    "#]].assert_eq(&text);
}
