//! Connections go on, and pass without rules, whether an agent runs or not.

use super::*;

#[test]
#[ignore = "needs a kernel with flow tables: cargo xtask vm"]
fn offloaded_connections_outlive_the_agent_and_are_its_successors() {
    in_new_netns(async || {
        forward();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let updates = |allowed: bool| {
            let action = if allowed { Action::Allow } else { Action::Deny };
            vec![
                open_profile(),
                ingress_policy("web", &[(action, &|_| {})]),
                Update::Endpoint(endpoint(&server, &["web"], &[])),
                Update::Endpoint(endpoint(&client, &[], &[])),
                Update::InSync,
            ]
        };
        let dataplane = open_offloading().await;
        apply(&dataplane, updates(true)).await;
        watch();
        let mut talk =
            Talk::new(&server.host, server.v4, 80, from_host(&client.host, server.v4, 80));
        until_offloaded(&mut talk, true).await;

        drop(dataplane);
        assert_eq!(seen(&mut talk).await, 0, "nobody runs");
        let dataplane = open_offloading().await;
        assert_eq!(seen(&mut talk).await, 0, "nobody knows what is wanted yet");
        apply(&dataplane, updates(true)).await;
        assert!(talk.goes(false) && talk.goes(true));
        until_offloaded(&mut talk, true).await;

        // Policy that changed while nobody ran.
        drop(dataplane);
        let dataplane = open_offloading().await;
        apply(&dataplane, updates(false)).await;
        until_cut(&mut talk, false, "it").await;
        assert!(!talk.goes(true));
        apply(&dataplane, updates(true)).await;
        until_healed(&mut talk).await;
        until_offloaded(&mut talk, true).await;

        // One that does not offload.
        drop(dataplane);
        let dataplane = open().await;
        apply(&dataplane, updates(true)).await;
        assert!(!flow_table().await);
        assert!(seen(&mut talk).await >= 8);
        drop(dataplane);
    });
}
