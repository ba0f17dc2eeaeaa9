use std::time::Duration;

use calico_bgp::filter::Action;
use calico_bgp::rib::{AddPathFamily, NextHopMode, Policy, PrivateAs, SendPaths};
use calico_bgp::speaker::{Distance, LimitAction, LocalAsMode};
use calico_bgp::wire::{Family, Role};

use super::*;

/// The document for operators.
const MANUAL: &str = include_str!("../../../../docs/route-reflector.md");

const HEAD: &str = "as = 64512\nrouter_id = '192.0.2.1'\n";

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text) {
        Ok(config) => panic!("nothing is wrong: {config:?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[track_caller]
fn parse(text: &str) -> Config {
    Config::parse(&format!("{HEAD}{text}")).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn blocks() -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in MANUAL.lines() {
        match &mut block {
            None if line == "```toml" => block = Some(String::new()),
            None => {}
            Some(text) if line == "```" => {
                blocks.push(std::mem::take(text));
                block = None;
            }
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    blocks
}

#[test]
fn every_example_of_the_manual_is_valid() {
    let blocks = blocks();
    assert!(blocks.len() >= 4, "{} examples", blocks.len());
    for block in blocks {
        // Password files are not there in a test.
        let text = block.replace("/etc/calico/rr-password", "/proc/sys/kernel/ostype");
        let whole = text.starts_with("as = ");
        let text = if whole { text } else { format!("{HEAD}{text}") };
        if let Err(problems) = Config::parse(&text) {
            panic!("{text}\n{problems:#?}");
        }
    }
}

#[test]
fn the_unit_in_the_manual_is_the_one_that_is_shipped() {
    let unit = include_str!("../../../../deploy/systemd/calico-rr.service");
    assert!(MANUAL.contains(&format!("```ini\n{unit}```\n")));
}

#[test]
fn every_key_is_in_the_manual() {
    const UNKNOWN: &str = "zzzzzzzzzzzz = 1\n";
    let tables = [
        "[group.g]",
        "[[neighbor]]",
        "[[dynamic]]",
        "[[network]]",
        "[filter.f]",
        "[[filter.f.rule]]",
        "[[prefix_list.p]]",
        "[group.h.prefix_limit]",
        "[group.h.add_path]",
    ];
    let tables: String = tables.iter().map(|table| format!("{table}\n{UNKNOWN}")).collect();
    let found = problems(&format!("{HEAD}{UNKNOWN}{tables}"));
    let found = found.iter().filter_map(|line| line.split_once("known here are "));
    let lists: Vec<&str> = found.map(|(_, keys)| keys).collect();
    assert_eq!(lists.len(), 10, "{lists:?}");
    for key in lists.iter().flat_map(|keys| keys.split(", ")) {
        assert!(MANUAL.contains(&format!("`{key}`")), "{key} is not in the manual");
    }
}

#[test]
fn neighbors_of_our_own_as_are_clients_unless_told_otherwise() {
    let config =
        parse("[[neighbor]]\naddress = '10.0.0.1'\n[[neighbor]]\naddress = '10.0.0.2'\nas = 2\n");
    let clients: Vec<bool> = config.peers.iter().map(|peer| peer.rr_client).collect();
    assert_eq!(clients, [true, false]);
}

#[test]
fn every_option_arrives_at_the_speaker() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "hush\n").unwrap();
    let config = parse(&format!(
        "listen = ['192.0.2.1:1179', '[2001:db8::1]:179']\ncluster_id = '1.2.3.4'\n\
         max_paths = 4\nmultipath_relax = false\nnext_hop_v4 = '192.0.2.9'\n\
         next_hop_v6 = '2001:db8::9'\nforwarding_preserved = false\nselection_deferral = 5\n\
         run_dir = '/x'\nmetrics = '127.0.0.1:1'\non_stop = 'cease'\n\
         [group.all]\nas = 65001\nhold_time = 30\nkeepalive_time = 5\nconnect_retry = 2\n\
         [group.far]\ngroup = 'all'\nmultihop = 3\nhold_time = 60\n\
         [[neighbor]]\naddress = '10.0.0.1'\ngroup = 'far'\nport = 1790\nlocal_as = 65000\n\
         local_as_mode = 'show'\nlocal_as_prepend = true\nsource = '10.0.0.9'\npassive = true\nnext_hop = 'keep'\n\
         families = ['ipv4', 'ipv6']\nrestart_time = 60\nlong_lived_time = 3600\n\
         long_lived_max = 60\npassword_file = '{}'\nallow_own_as = 2\noverride_as = true\n\
         private_as = 'replace'\nrole = 'customer'\nstrict_role = true\n\
         extended_next_hop = true\nadd_path = 'both'\ninterface = 'eth0'\n\
         prefix_limit = {{ max = 10, warn_at = 5, idle = 7 }}\nimport = 'reject-all'\n\
         description = 'rack'\nenforce_first_as = true\ngraceful_shutdown = true\n\
         honor_graceful_shutdown = false\n\
         [[neighbor]]\naddress = '10.0.0.2'\nttl_security = 1\npassword = 'x'\n\
         next_hop_subnet = '10.0.0.0/24'\nprefix_limit = 9\nrestart_time = 0\n\
         cluster_id = '9.9.9.9'\nadd_path = {{ send = 2 }}\n\
         [[dynamic]]\nprefix = '10.1.0.0/16'\nlimit = 3\ngroup = 'all'\nclient = false\n\
         [[network]]\nprefix = '10.9.0.0/16'\ncommunities = '1:2'\nmed = 5\nlocal_pref = 6\n\
         next_hop = '10.0.0.7'\n",
        secret.display()
    ));
    let speaker = &config.speaker;
    assert_eq!(speaker.listen.len(), 2);
    assert_eq!(speaker.cluster_id, Some([1, 2, 3, 4].into()));
    assert_eq!((speaker.max_paths, speaker.multipath_relax), (4, false));
    assert_eq!(speaker.next_hop_v4, Some([192, 0, 2, 9].into()));
    assert_eq!(speaker.selection_deferral, Duration::from_secs(5));
    assert!(!speaker.forwarding_preserved);
    assert_eq!(config.service.on_stop, OnStop::Cease);

    let peer = &config.peers[0];
    assert_eq!((peer.remote_as, peer.local_as, peer.port), (65001, Some(65000), 1790));
    assert_eq!((peer.hold_time, peer.keepalive_time), (60, Some(5)));
    assert_eq!(peer.connect_retry, Duration::from_secs(2));
    assert_eq!(peer.distance, Distance::Hops(3));
    assert_eq!((peer.local_as_mode, peer.local_as_prepend), (LocalAsMode::Show, true));
    assert_eq!(peer.local_address, Some([10, 0, 0, 9].into()));
    assert!(peer.passive && !peer.rr_client && peer.override_as && peer.strict_role);
    assert_eq!(peer.next_hop, NextHopMode::Keep);
    assert_eq!(peer.families, [Family::IPV4_UNICAST, Family::IPV6_UNICAST]);
    assert_eq!((peer.graceful_restart, peer.long_lived), (Some(60), Some(3600)));
    assert_eq!(peer.long_lived_max, Duration::from_secs(60));
    assert_eq!(peer.password.as_ref().unwrap().as_bytes(), b"hush");
    assert_eq!((peer.allow_own_as, peer.private_as), (2, PrivateAs::Replace));
    assert_eq!(peer.role, Some(Role::Customer));
    assert!(peer.extended_next_hop);
    let several = |family| AddPathFamily { family, receive: 64, send: SendPaths::All };
    assert_eq!(peer.add_path, [Family::IPV4_UNICAST, Family::IPV6_UNICAST].map(several));
    assert!(peer.enforce_first_as && peer.graceful_shutdown && !peer.honor_graceful_shutdown);
    assert_eq!(peer.interface.as_deref(), Some("eth0"));
    let limit = peer.prefix_limit.unwrap();
    let idle = Duration::from_secs(7);
    assert_eq!((limit.max, limit.warn_at), (10, 5));
    assert_eq!(limit.action, LimitAction::Cease { idle });
    assert_eq!(peer.import, Policy::RejectAll);
    assert_eq!(config.descriptions[&peer.key()], "rack");
    assert_eq!(config.files[0].0, secret);

    let near = &config.peers[1];
    assert_eq!((near.distance, near.graceful_restart), (Distance::Secured(1), None));
    assert_eq!(near.next_hop, NextHopMode::AutoOnSubnet("10.0.0.0/24".parse().unwrap()));
    assert_eq!(near.prefix_limit.unwrap().max, 9);
    assert_eq!(near.cluster_id, Some([9, 9, 9, 9].into()));
    let two = AddPathFamily { family: Family::IPV4_UNICAST, receive: 0, send: SendPaths::UpTo(2) };
    assert_eq!(near.add_path, [two]);

    let dynamic = &config.dynamic[0];
    assert_eq!((dynamic.limit, dynamic.template.remote_as), (3, 65001));
    let network = &config.networks[&"10.9.0.0/16".parse().unwrap()];
    assert_eq!((network.med, network.local_pref, network.communities.len()), (Some(5), Some(6), 1));
}

/// Whatever the speaker comes to have as an option, the file has to have, too.
#[test]
fn every_field_of_the_speaker_has_a_key() {
    let peer = PeerConfig::new([10, 0, 0, 1].into(), 1);
    let speaker = bgp::Config::new(1, [10, 0, 0, 1].into());
    // Those that are called otherwise in the file, and one that is not for it to say.
    let called = [
        ("local_as", "as"),
        ("remote_as", "as"),
        ("local_address", "source"),
        ("rr_client", "client"),
        ("graceful_restart", "restart_time"),
        ("long_lived", "long_lived_time"),
        ("distance", "multihop"),
        ("restarting", "run_dir"),
    ];
    for fields in [format!("{peer:#?}"), format!("{speaker:#?}")] {
        let of = |line: &str| line.strip_prefix("    ")?.split_once(": ").map(|l| l.0.to_owned());
        let fields: Vec<String> = fields.lines().filter_map(of).collect();
        assert!(fields.len() > 5, "{fields:?}");
        for field in fields.iter().filter(|field| !field.starts_with(' ')) {
            let key = called.iter().find(|(name, _)| name == field).map_or(&**field, |c| c.1);
            assert!(MANUAL.contains(&format!("`{key}`")), "{field} has no key");
        }
    }
}

#[test]
fn filters_are_joined_in_their_order() {
    let config = parse(
        "[[prefix_list.blocks]]\ndeny = '10.1.0.0/16'\n[[prefix_list.blocks]]\n\
         permit = '10.0.0.0/8'\nge = 24\nle = 26\n\
         [filter.a]\notherwise = 'reject'\n[[filter.a.rule]]\nprefix_list = 'blocks'\n\
         action = 'accept'\nadd_communities = ['65000:1']\nset_med = 3\n\
         [filter.b]\n[[filter.b.rule]]\nprefix = '10.0.0.0/8'\nge = 9\nnot = true\n\
         source = 'learned'\npeer = 'external'\ncommunities = ['1:2']\nas_path_prefix = [1, 2]\n\
         local_pref_above = 9\naction = 'reject'\n[[filter.b.rule]]\naction = 'change'\n\
         prepend = 7\n\
         [[neighbor]]\naddress = '10.0.0.1'\nimport = ['b', 'a']\n",
    );
    let Policy::Filter(filter) = &config.peers[0].import else { panic!("no filter") };
    let labels: Vec<&str> = filter.labels.iter().map(AsRef::as_ref).collect();
    assert_eq!(
        labels,
        ["filter b, rule 1", "filter b, rule 2", "filter a, rule 1", "filter a, otherwise"]
    );
    assert_eq!(filter.rules[0].conditions.len(), 6);
    assert!(matches!(&filter.rules[1].action, Action::Change(operations) if operations.len() == 1));
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let found = problems(
        "as = 0\nrouter_id = '0.0.0.0'\nlistne = []\n\
         [group.a]\ngroup = 'b'\n[group.b]\ngroup = 'a'\n\
         [[neighbor]]\naddress = '10.0.0.1'\nas = 2\nclient = true\nhold_time = 1\ngroup = 'c'\n\
         import = ['nothing']\n[[neighbor]]\naddress = '10.0.0.1'\nrole = 'peer'\n\
         password = ''\nmultihop = 2\nttl_security = 1\n[[neighbor]]\nas = 'x'\n\
         [filter.f]\n[[filter.f.rule]]\nprefix = '10.0.0.0/8'\nle = 4\nset_med = 1\n\
         action = 'reject'\n",
    );
    let wanted = [
        "1:6: as: AS 0 is reserved (RFC 7607); use 1 to 4294967295",
        "2:13: router_id: 0.0.0.0 identifies nobody; use an address of this host",
        "3:1: listne: unknown key; did you mean `listen`?",
        "5:9: group.a.group: goes in a circle; leave it out",
        "7:9: group.b.group: goes in a circle; leave it out",
        "11:10: neighbor[1].client: only a neighbor in our own AS can be a client (RFC 4456)",
        "12:13: neighbor[1].hold_time: use 0 (off), or 3 and more (RFC 4271, section 4.2)",
        "13:9: neighbor[1].group: there is no group \"c\"; write it as [group.c]",
        "14:11: neighbor[1].import[1]: there is no filter \"nothing\"; \
         write it as [filter.nothing]",
        "16:11: neighbor[2].address: is there twice; leave one out, or give them different ports",
        "18:12: neighbor[2].password: a BGP password has 1 to 80 octets, not 0",
        "20:16: neighbor[2].ttl_security: there is multihop, too; leave one of them out",
        "21:1: neighbor[3]: `address` is missing; add `address = \"192.0.2.11\"`",
        "22:6: neighbor[3].as: is a text; write a number from 0 to 4294967295",
        "26:6: filter.f.rule[1].le: no prefix in 10.0.0.0/8 is so long; use 8 to 32",
        "28:10: filter.f.rule[1].action: a route that is rejected cannot be changed; \
         leave out the changes",
    ];
    for wanted in wanted {
        assert!(found.iter().any(|line| line == wanted), "{wanted}\nis not in {found:#?}");
    }
    // The role of a neighbor in our own AS: AS 0 equals AS 0 here.
    assert_eq!(found.len(), wanted.len() + 1, "{found:#?}");
}

#[test]
fn what_must_be_there_is_asked_for() {
    assert_eq!(
        problems(""),
        [
            "1:1: `as` is missing; add `as = 64512`",
            "1:1: `router_id` is missing; add `router_id = \"192.0.2.1\"`"
        ]
    );
}
