use calico_core::routes::LearnedRoute;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn endpoint(name: &str, interface: &str, address: &str) -> WorkloadEndpoint {
    WorkloadEndpoint {
        id: EndpointId { namespace: "default".into(), name: name.into() },
        interface: interface.into(),
        addresses: vec![net(address)],
        allowed_sources: Vec::new(),
        limits: Default::default(),
        tiers: Vec::new(),
        profiles: Vec::new(),
    }
}

fn learn(prefix: &str, hop: &str) -> RouteEvent {
    learn_with(prefix, hop, METRIC_BASE - 1024)
}

fn learn_with(prefix: &str, hop: &str, local_pref: u32) -> RouteEvent {
    let (next_hops, local_pref) = (vec![hop.parse().unwrap()], Some(local_pref));
    RouteEvent::Put(LearnedRoute { prefix: net(prefix), next_hops, local_pref })
}

/// Metrics of the routes that are wanted in the kernel.
fn metrics(changes: &Changes) -> Vec<Option<u32>> {
    let metric = |update: &Update| match update {
        Update::Route(route) => route.metric,
        other => panic!("{other:?}"),
    };
    changes.routes.iter().map(metric).collect()
}

#[test]
fn metrics_are_those_of_the_settings_and_of_local_pref() {
    let mut routing = Routing::default();
    routing.set_block(net("10.65.0.0/26"), true);
    routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.1/32"));
    routing.set_endpoint(&endpoint("b", "cali2", "fd00::1/128"));
    routing.handle_route(learn_with("10.66.0.0/26", "192.0.2.2", METRIC_BASE - 700));
    let RouteEvent::Put(mut foreign) = learn("10.67.0.0/26", "192.0.2.2") else { unreachable!() };
    foreign.local_pref = None;
    routing.handle_route(RouteEvent::Put(foreign));
    let usual = [None, Some(1024), Some(700), Some(METRIC_BASE - 100), Some(1024)];
    assert_eq!(metrics(&routing.flush()), usual);
    routing.set_metrics(Metrics { v4: 77, ..Metrics::default() });
    assert_eq!(metrics(&routing.flush()), [Some(77)], "only what changes");
    routing.set_metrics(Metrics { v4: 77, v6: 78, ..Metrics::default() });
    assert_eq!(metrics(&routing.flush()), [Some(78)]);
}

#[test]
fn a_workload_that_moves_is_followed_before_it_is_gone_here() {
    let mut routing = Routing::default();
    routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.1/32"));
    routing.handle_route(learn_with("10.65.0.1/32", "192.0.2.2", METRIC_BASE - 1024));
    let here = |changes: &Changes| {
        matches!(
            &changes.routes[..],
            [Update::Route(Route { target: RouteTarget::Workload(_), .. })]
        )
    };
    assert!(here(&routing.flush()), "not preferred");
    routing.handle_route(learn_with("10.65.0.1/32", "192.0.2.2", METRIC_BASE - 512));
    let changes = routing.flush();
    assert_eq!((here(&changes), metrics(&changes)), (false, vec![Some(512)]));
    routing.handle_route(RouteEvent::Gone(net("10.65.0.1/32")));
    assert!(here(&routing.flush()), "it stayed");
}

#[test]
fn a_workload_that_arrived_is_preferred_until_everybody_knows() {
    let mut routing = Routing::default();
    let vm = endpoint("vm", "cali1", "10.65.0.1/32");
    let address = vm.addresses[0];
    routing.set_arriving([vm.id.clone()].into());
    routing.set_endpoint(&vm);
    assert_eq!(routing.flush(), Changes::default(), "it is elsewhere yet");
    routing.set_arriving(BTreeSet::new());
    let changes = routing.flush();
    assert_eq!(changes.arrived, std::slice::from_ref(&vm.id));
    assert_eq!((metrics(&changes), &changes.announce), (vec![Some(512)], &vec![address]));
    assert_eq!(changes.preferred, [(address, Some(METRIC_BASE - 512))]);
    assert_eq!(routing.flush(), Changes::default());

    routing.settle(&vm.id);
    let changes = routing.flush();
    assert_eq!((metrics(&changes), changes.announce), (vec![Some(1024)], vec![address]));
    assert_eq!(changes.preferred, [(address, None)]);
    routing.settle(&vm.id);
    assert_eq!(routing.flush(), Changes::default());

    // One that goes before leaves no preference to who has the address next.
    routing.set_arriving([vm.id.clone()].into());
    routing.set_arriving(BTreeSet::new());
    routing.flush();
    routing.remove_endpoint(&vm.id);
    assert_eq!(routing.flush().preferred, [(address, None)]);
    routing.set_endpoint(&vm);
    assert_eq!(metrics(&routing.flush()), [Some(1024)]);
}

#[test]
fn an_own_block_is_blackholed_and_told_with_the_addresses_in_it() {
    let mut routing = Routing::default();
    routing.set_block(net("10.65.0.0/26"), true);
    routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.1/32"));
    let changes = routing.flush();
    assert_eq!(changes.announce, [net("10.65.0.0/26"), net("10.65.0.1/32")]);
    assert_eq!(changes.routes.len(), 2);
    assert_eq!(routing.flush(), Changes::default());

    routing.set_block(net("10.65.0.0/26"), false);
    let changes = routing.flush();
    assert_eq!(changes.withdraw, [net("10.65.0.0/26")]);
    assert_eq!(changes.announce, []);
}

#[test]
fn a_block_of_one_address_is_no_route() {
    let mut routing = Routing::default();
    routing.set_block(net("10.65.0.7/32"), true);
    assert_eq!(routing.flush(), Changes::default());
    routing.set_endpoint(&endpoint("a", "cali1", "10.65.0.7/32"));
    assert_eq!(routing.flush().announce, [net("10.65.0.7/32")]);
}

#[test]
fn services_are_announced_and_not_routed() {
    let mut routing = Routing::default();
    routing.set_services([net("10.96.0.0/12"), net("203.0.113.0/24")]);
    let changes = routing.flush();
    assert_eq!(changes.announce, [net("10.96.0.0/12"), net("203.0.113.0/24")]);
    assert_eq!(changes.routes, []);
    routing.set_host([net("10.7.0.0/24")]);
    let changes = routing.flush();
    assert_eq!((changes.announce, changes.routes), (vec![net("10.7.0.0/24")], vec![]));
    routing.set_host([]);
    assert_eq!(routing.flush().withdraw, [net("10.7.0.0/24")]);
    routing.set_services([net("10.96.0.0/12")]);
    assert_eq!(routing.flush().withdraw, [net("203.0.113.0/24")]);
}

#[test]
fn a_far_peer_is_reached_by_its_gateway() {
    let mut routing = Routing::default();
    let (peer, gateway) = (net("10.9.0.1/32"), "192.0.2.1".parse().unwrap());
    routing.handle_route(learn("10.9.0.1/32", "192.0.2.2"));
    routing.set_gateways([(peer, gateway)].into());
    let by = |gateway| Route::new(peer, RouteTarget::Via(vec![via(&gateway)]));
    assert_eq!(routing.flush().routes, [Update::Route(by(gateway))]);
    routing.set_gateways(BTreeMap::new());
    let learned = Route { metric: Some(1024), ..by("192.0.2.2".parse().unwrap()) };
    assert_eq!(routing.flush().routes, [Update::Route(learned)]);
}

#[test]
fn own_addresses_and_blocks_win_over_learned_routes() {
    let mut routing = Routing::default();
    routing.handle_route(learn("10.65.0.0/26", "192.0.2.2"));
    assert_eq!(routing.flush().routes.len(), 1);
    routing.set_block(net("10.65.0.0/26"), true);
    let changes = routing.flush();
    let own = Route::new(net("10.65.0.0/26"), RouteTarget::Blackhole);
    assert_eq!(changes.routes, [Update::Route(own)]);
    routing.set_block(net("10.65.0.0/26"), false);
    assert!(matches!(&routing.flush().routes[..],
        [Update::Route(Route { target: RouteTarget::Via(hops), .. })] if hops.len() == 1));
}

#[test]
fn a_new_listing_drops_what_it_lacks() {
    let mut routing = Routing::default();
    routing.handle_route(learn("10.65.1.0/26", "192.0.2.2"));
    routing.handle_route(learn("10.65.2.0/26", "192.0.2.3"));
    routing.flush();
    routing.handle_route(RouteEvent::Begin);
    let RouteEvent::Put(kept) = learn("10.65.2.0/26", "192.0.2.3") else { unreachable!() };
    routing.handle_route(RouteEvent::Item(kept));
    routing.handle_route(RouteEvent::Ready);
    assert_eq!(routing.flush().routes, [Update::RouteRemoved(net("10.65.1.0/26"))]);
}

#[test]
fn an_endpoint_that_is_about_to_arrive_is_not_routed_yet() {
    let mut routing = Routing::default();
    let target = endpoint("new", "cali2", "10.65.0.1/32");
    routing.set_arriving([target.id.clone()].into());
    routing.handle_route(learn("10.65.0.1/32", "192.0.2.2"));
    routing.set_endpoint(&target);
    let changes = routing.flush();
    assert!(
        matches!(&changes.routes[..], [Update::Route(Route { target: RouteTarget::Via(_), .. })]),
        "{changes:?}"
    );
    assert_eq!(changes.announce, []);
    // It has arrived.
    routing.set_arriving(BTreeSet::new());
    let changes = routing.flush();
    assert!(
        matches!(
            &changes.routes[..],
            [Update::Route(Route { target: RouteTarget::Workload(_), .. })]
        ),
        "{changes:?}"
    );
    assert_eq!(changes.announce, [net("10.65.0.1/32")]);
    // One that is to leave and come again.
    routing.set_arriving([target.id.clone()].into());
    assert_eq!(routing.flush().withdraw, [net("10.65.0.1/32")]);
    routing.remove_endpoint(&target.id);
    routing.set_arriving(BTreeSet::new());
    assert_eq!(routing.flush().announce, []);
}

#[test]
fn an_address_that_moved_to_another_endpoint_stays() {
    let mut routing = Routing::default();
    routing.set_endpoint(&endpoint("old", "cali1", "10.65.0.1/32"));
    routing.set_endpoint(&endpoint("new", "cali2", "10.65.0.1/32"));
    routing.remove_endpoint(&EndpointId { namespace: "default".into(), name: "old".into() });
    let to_new = RouteTarget::Workload("cali2".into());
    let route = Route::new(net("10.65.0.1/32"), to_new);
    let route = Route { metric: Some(1024), ..route };
    assert_eq!(routing.flush().routes, [Update::Route(route)]);
}
