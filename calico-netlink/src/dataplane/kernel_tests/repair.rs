//! What others break, and what the kernel refuses.

use std::time::Instant;

use calico_core::dataplane::DataplaneError;

use super::super::Settings;
use super::lab::{forward, nft};
use super::*;

#[test]
fn what_others_break_is_repaired_and_told() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        // Nobody but this test is to repair.
        let settings = Settings { guard_interval: None };
        let dataplane = LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap();
        apply(&dataplane, everything(&server, &client)).await;
        let whole = table().await;
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        let chain = chain_of(whole.as_ref().unwrap(), "cali1").unwrap();
        let changed = format!("chain {chain} was changed");
        let meddling: [(&[&str], &str); 6] = [
            (&["flush", "ruleset"], "table calico was missing"),
            (&["flush", "chain", "inet", "calico", &chain], &changed),
            (&["insert", "rule", "inet", "calico", &chain, "accept"], &changed),
            (
                &["delete", "element", "inet", "calico", "cali40s-client", "{ 10.65.0.2 }"],
                "set cali40s-client lacked 1 and had 0 extra",
            ),
            (&["add", "chain", "inet", "calico", "mine"], "chain mine was not ours"),
            (
                &[
                    "add",
                    "element",
                    "inet",
                    "calico",
                    "cali-to-wl-dispatch",
                    "{ \"cali9\" : accept }",
                ],
                "set cali-to-wl-dispatch lacked 0 and had 1 extra",
            ),
        ];
        for (arguments, told) in meddling {
            nft(arguments);
            assert_ne!(table().await, whole);
            assert_eq!(dataplane.resync().await.unwrap().repaired, [told]);
            assert_eq!(table().await, whole, "{arguments:?}");
        }
        // A change of ours meets a meddled table: the batch does not fit, is refused, and the
        // next fits.
        nft(&["flush", "ruleset"]);
        nft(&["add", "table", "ip", "other"]);
        let moved = ingress_policy("udp", &[]);
        apply(&dataplane, vec![moved]).await;
        let rules = &table().await.unwrap().chains["cali-pi-np/prod/udp"].rules;
        assert!(rules.is_empty(), "{rules:?}");
    });
}

#[test]
fn what_others_break_is_repaired_by_itself() {
    in_new_netns(async || {
        let pods = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        let closed = table().await;
        let repaired = async |whole| {
            let started = Instant::now();
            while table().await != whole {
                assert!(started.elapsed() < Duration::from_secs(20), "not repaired");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            started.elapsed()
        };
        // Closed even before there is a desired state.
        nft(&["flush", "ruleset"]);
        repaired(closed).await;
        apply(&dataplane, everything(&pods.0, &pods.1)).await;
        let whole = table().await;
        nft(&["flush", "ruleset"]);
        println!("flush ruleset repaired after {:?}", repaired(whole.clone()).await);
        nft(&["delete", "element", "inet", "calico", "cali-to-wl-dispatch", "{ \"cali1\" }"]);
        println!("an element repaired after {:?}", repaired(whole).await);
        // What was removed on purpose stays away.
        dataplane.remove_all().await.unwrap();
        nft(&["add", "table", "ip", "other"]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(table().await, None);
    });
}

#[test]
fn what_the_kernel_refuses_is_left_out_and_named_and_the_rest_works() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let dataplane = open().await;
        // A rule larger than a message can be.
        let sets: Vec<SetId> = (0..1500).map(|n| format!("s:{n}").as_str().into()).collect();
        let huge = ingress_policy("huge", &[(Action::Allow, &|r| r.source.sets.clone_from(&sets))]);
        let mut updates: Vec<Update> =
            sets.iter().map(|id| address_set(&id.0, &[&client])).collect();
        updates.extend([
            open_profile(),
            huge.clone(),
            Update::Endpoint(endpoint(&server, &["huge"], &[])),
            Update::Endpoint(endpoint(&client, &[], &[])),
            Update::InSync,
        ]);
        let applied = apply(&dataplane, updates).await;
        let [(id, reason)] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
        assert_eq!(*id, endpoint_id(&server));
        assert!(reason.contains("NetworkPolicy prod/huge is refused"), "{reason}");
        // Closed is who needs it, and nobody else.
        assert!(!client.host.pings(server.v4));
        assert!(chain_of(&table().await.unwrap(), "cali2").is_some());
        // Tried again, refused again; nothing changes.
        assert_eq!(dataplane.resync().await.unwrap().repaired, Vec::<String>::new());
        // Another version of it is another matter.
        let small = ingress_policy("huge", &[(Action::Allow, &|_| {})]);
        assert_eq!(apply(&dataplane, vec![small]).await.failed, []);
        let started = Instant::now();
        while !client.host.pings(server.v4) {
            assert!(started.elapsed() < Duration::from_secs(20), "still closed");
        }
    });
}

#[test]
fn a_senseless_transaction_is_refused_without_trace() {
    in_new_netns(async || {
        let pod = Pod::new(1);
        let dataplane = open().await;
        apply(
            &dataplane,
            vec![open_profile(), Update::Endpoint(endpoint(&pod, &[], &[])), Update::InSync],
        )
        .await;
        let before = table().await;
        let mut long = endpoint(&pod, &[], &[]);
        long.interface = "cali-much-too-long".into();
        let unknown =
            ingress_policy("p", &[(Action::Allow, &|r| r.source.sets = in_set("s:absent"))]);
        let delta = Update::SetDelta { id: "s:absent".into(), added: vec![], removed: vec![] };
        let ports_as_net = Update::Set {
            id: "s:x".into(),
            kind: SetKind::Net,
            members: vec![SetMember::Port { address: pod.v4, protocol: 6, port: 1 }],
        };
        for (update, told) in [
            (Update::Endpoint(long), "no interface name"),
            (unknown, "set s:absent, which was not described"),
            (delta, "set s:absent changes but was not described"),
            (ports_as_net, "cannot hold"),
        ] {
            let gone = Update::EndpointRemoved(endpoint_id(&pod));
            let transaction = Transaction { revision: 8, updates: vec![gone, update] };
            let error = dataplane.apply(transaction).await.unwrap_err();
            assert!(matches!(error, DataplaneError::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains(told), "{error}");
        }
        apply(&dataplane, vec![]).await;
        assert_eq!(table().await, before);
    });
}
