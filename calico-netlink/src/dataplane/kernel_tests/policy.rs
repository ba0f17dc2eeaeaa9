//! Policies decide over real packets as they say, and tell which rule decided.

use calico_core::dataplane::{Verdict, VerdictCause};

use super::lab::forward;
use super::*;

#[test]
fn a_selector_set_and_a_port_range_decide_and_name_their_rule() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let mut verdicts = dataplane.verdicts();
        let (web, client, other) = (Pod::new(1), Pod::new(2), Pod::new(3));
        let rules = ingress_policy(
            "web",
            &[
                (Action::Deny, &|rule| {
                    rule.protocol = Some(6);
                    rule.destination.ports = ports(81, 81);
                }),
                (Action::Allow, &|rule| {
                    rule.protocol = Some(6);
                    rule.source.sets = in_set("s:clients");
                    rule.destination.ports = [ports(80, 82), ports(90, 90)].concat();
                }),
            ],
        );
        apply(
            &dataplane,
            vec![
                address_set("s:clients", &[&client]),
                open_profile(),
                rules,
                Update::Endpoint(endpoint(&web, &["web"], &[])),
                Update::Endpoint(endpoint(&client, &[], &[])),
                Update::Endpoint(endpoint(&other, &[], &[])),
                Update::InSync,
            ],
        )
        .await;
        for address in [web.v4, web.v6] {
            let _listeners = [80, 81, 82, 83, 90].map(|port| web.host.listen(address, port));
            let open =
                |from: &Pod| [80, 81, 82, 83, 90].map(|port| from.host.connects(address, port));
            assert_eq!(open(&client), [true, false, true, false, true], "{address}");
            assert_eq!(open(&other), [false; 5], "{address}");
        }

        let event = next(&mut verdicts).await;
        let VerdictCause::Rule(id) = &event.cause else { panic!("{event:?}") };
        assert_eq!(id.to_string(), "NetworkPolicy prod/web ingress rule 0");
        assert_eq!((event.flow.source, event.flow.destination), (client.v4, web.v4));
        assert_eq!((event.flow.protocol, event.flow.destination_port), (6, Some(81)));
        assert_eq!((&*event.interface, event.direction), ("cali1", Direction::Ingress));
        let event = next(&mut verdicts).await;
        assert_eq!(event.cause, VerdictCause::EndOfTier("default".into()));
        assert_eq!(event.flow.destination_port, Some(83));

        let counters = dataplane.rule_counters().await.unwrap();
        let packets = |identity: &str| {
            counters.iter().find(|c| c.identity == identity).map_or(0, |c| c.packets)
        };
        // Client and other, on two families, each one connection request to port 81.
        assert_eq!(packets("NetworkPolicy prod/web ingress rule 0"), 4);
        assert_eq!(packets("NetworkPolicy prod/web ingress rule 1"), 6);
        assert_eq!(packets("end of tier default ingress"), 2 + 8);

        // The set gains a member: one element, no rule.
        let added = vec![SetMember::Net(other.v4.into())];
        let delta = Update::SetDelta { id: "s:clients".into(), added, removed: vec![] };
        apply(&dataplane, vec![delta]).await;
        let _listener = web.host.listen(web.v4, 80);
        assert!(other.host.connects(web.v4, 80));
    });
}

#[test]
fn tiers_pass_profiles_decide_and_log_goes_on() {
    in_new_netns(async || {
        forward();
        let dataplane = open().await;
        let mut verdicts = dataplane.verdicts();
        let (server, client) = (Pod::new(1), Pod::new(2));
        let tier = |name: &str, default_action, policies: &[&str]| TierPolicies {
            tier: name.into(),
            default_action,
            ingress: policies.iter().map(|name| policy(name)).collect(),
            egress: vec![],
        };
        let tcp = |port: u16| {
            move |rule: &mut Rule| {
                rule.protocol = Some(6);
                rule.destination.ports = ports(port, port);
            }
        };
        let mut guarded = endpoint(&server, &[], &[]);
        guarded.tiers = vec![
            tier("security", DefaultAction::Deny, &["first", "second"]),
            tier("soft", DefaultAction::Pass, &["third"]),
        ];
        let owner = RuleOwner::Profile("tcp4".into());
        let mut allow = rule(&owner, Direction::Ingress, 0, Action::Allow);
        tcp(4)(&mut allow);
        let pass = rule(&owner, Direction::Ingress, 1, Action::Pass);
        let rules = RuleSet { ingress: vec![allow, pass], egress: vec![] };
        guarded.profiles = vec!["tcp4".into(), "open".into()];
        apply(
            &dataplane,
            vec![
                open_profile(),
                Update::Rules { owner, rules },
                ingress_policy(
                    "first",
                    &[
                        (Action::Log, &tcp(1)),
                        (Action::Pass, &tcp(1)),
                        (Action::Pass, &tcp(4)),
                        (Action::Pass, &tcp(5)),
                    ],
                ),
                ingress_policy("second", &[(Action::Deny, &tcp(1)), (Action::Allow, &tcp(2))]),
                ingress_policy("third", &[(Action::Allow, &tcp(1)), (Action::Deny, &tcp(2))]),
                Update::Endpoint(guarded),
                Update::Endpoint(endpoint(&client, &[], &[])),
                Update::InSync,
            ],
        )
        .await;
        let _listeners = [1, 2, 3, 4, 5].map(|port| server.host.listen(server.v4, port));
        let seen = [1, 2, 3, 4, 5].map(|port| client.host.connects(server.v4, port));
        // 1: logged, passed by first past second, allowed by third. 2: allowed by second, which
        // ends it. 3: end of tier security. 4: passed, nothing in soft, allowed by the profile.
        // 5: the same, but Pass in a profile denies.
        assert_eq!(seen, [true, true, false, true, false]);
        let mut causes = Vec::new();
        for _ in 0..3 {
            let event = next(&mut verdicts).await;
            causes.push((event.verdict, event.cause));
        }
        let of = |index, name| match name {
            Some(name) => VerdictCause::Rule(RuleId {
                owner: RuleOwner::Policy(policy(name)),
                direction: Direction::Ingress,
                index,
            }),
            None => VerdictCause::Rule(RuleId {
                owner: RuleOwner::Profile("tcp4".into()),
                direction: Direction::Ingress,
                index,
            }),
        };
        assert_eq!(
            causes,
            [
                (Verdict::Logged, of(0, Some("first"))),
                (Verdict::Denied, VerdictCause::EndOfTier("security".into())),
                (Verdict::Denied, of(1, None)),
            ]
        );
    });
}
