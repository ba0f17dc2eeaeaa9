//! What a service wants of Calico's pools for load balancers, and what its status is to say. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_core::resource::{
    AddressType, AssignIps, KubernetesService, ServiceType, service_handle,
};
use calico_ipam::ServiceWish;
use serde::de::DeserializeOwned;

/// `loadBalancerClass` of services that are nobody else's.
const CLASS: &str = "calico";

const V4_POOLS: &str = "projectcalico.org/ipv4pools";
const V6_POOLS: &str = "projectcalico.org/ipv6pools";
const ADDRESSES: &str = "projectcalico.org/loadBalancerIPs";

/// The handle of a service's addresses.
#[must_use]
pub fn handle(service: &KubernetesService) -> String {
    service_handle(service.name(), service.namespace(), &service.metadata.uid)
}

/// Whether addresses of this service are Calico's business.
#[must_use]
pub fn is_managed(service: &KubernetesService, assign: AssignIps) -> bool {
    let asks = [V4_POOLS, V6_POOLS, ADDRESSES]
        .iter()
        .any(|key| service.metadata.annotations.get(*key).is_some_and(|text| !text.is_empty()));
    let is_wanted = match (service.spec.load_balancer_class.as_str(), assign) {
        (CLASS, _) | ("", AssignIps::AllServices) => true,
        ("", AssignIps::RequestedServicesOnly) => asks,
        _ => false,
    };
    is_balanced(service) && is_wanted && !service.metadata.is_being_deleted()
}

/// Whether it has a load balancer at all.
#[must_use]
pub fn is_balanced(service: &KubernetesService) -> bool {
    service.spec.service_type == Some(ServiceType::LoadBalancer)
}

/// What a service wants.
///
/// # Errors
///
/// Which of its annotations makes no sense, and why.
pub fn wish(
    service: &KubernetesService,
    namespace: BTreeMap<String, String>,
    now: String,
) -> Result<ServiceWish, String> {
    let has = |family| service.spec.ip_families.contains(&family);
    let attributes = [
        ("service", service.name().to_owned()),
        ("namespace", service.namespace().to_owned()),
        ("type", "LoadBalancer".to_owned()),
        ("timestamp", now),
    ];
    let addresses: Vec<IpAddr> = list(service, ADDRESSES)?;
    let of = |v6: bool| addresses.iter().filter(move |ip| ip.is_ipv6() == v6).count();
    if of(false) > 1 || of(true) > 1 {
        return Err(format!("{ADDRESSES}: one IPv4 and one IPv6 address are possible at most"));
    }
    Ok(ServiceWish {
        handle: handle(service),
        attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        addresses,
        v4: has(AddressType::Ipv4),
        v6: has(AddressType::Ipv6),
        v4_pools: list(service, V4_POOLS)?,
        v6_pools: list(service, V6_POOLS)?,
        namespace: Some(namespace),
    })
}

fn list<T: DeserializeOwned>(service: &KubernetesService, key: &str) -> Result<Vec<T>, String> {
    match service.metadata.annotations.get(key).map(String::as_str) {
        None | Some("") => Ok(Vec::new()),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| format!("{key}: {text:?}: expected a JSON list ({error})")),
    }
}

/// The addresses that a service's status is to have, given what it has been given; `None` if it is
/// right as it is. What others have written there stays, unless the service has addresses of ours:
/// of those that it has no more, `ours` says which they are.
#[must_use]
pub fn status(
    service: &KubernetesService,
    given: &[IpAddr],
    ours: impl Fn(&IpAddr) -> bool,
) -> Option<Vec<IpAddr>> {
    let status = service.status.as_ref().map(|status| &status.load_balancer.ingress);
    let ingress = status.map_or(&[][..], Vec::as_slice);
    let told: Vec<IpAddr> = ingress.iter().filter_map(|told| told.ip.parse().ok()).collect();
    if given.is_empty() {
        let left: Vec<IpAddr> = told.iter().copied().filter(|ip| !ours(ip)).collect();
        return (left.len() < told.len()).then_some(left);
    }
    let same = told.len() == ingress.len()
        && told.len() == given.len()
        && given.iter().all(|ip| told.contains(ip));
    (!same).then(|| given.to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(annotations: &Value, spec: &Value, told: &[&str]) -> KubernetesService {
        let ingress: Vec<Value> = told.iter().map(|ip| json!({ "ip": ip })).collect();
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "prod", "uid": "u-1", "annotations": annotations },
            "spec": spec, "status": { "loadBalancer": { "ingress": ingress } },
        }))
        .unwrap()
    }

    fn balanced(annotations: &Value) -> KubernetesService {
        let spec = json!({ "type": "LoadBalancer", "ipFamilies": ["IPv4"] });
        service(annotations, &spec, &[])
    }

    #[test]
    fn class_annotations_and_settings_decide_whose_a_service_is() {
        use AssignIps::{AllServices as All, RequestedServicesOnly as Asked};
        let asks = json!({ V4_POOLS: r#"["a"]"# });
        for (annotations, class, assign, expected) in [
            (&json!({}), "", All, true),
            (&json!({}), "calico", All, true),
            (&json!({}), "other", All, false),
            (&json!({}), "", Asked, false),
            (&json!({}), "calico", Asked, true),
            (&asks, "", Asked, true),
            (&asks, "other", Asked, false),
        ] {
            let spec = json!({ "type": "LoadBalancer", "loadBalancerClass": class });
            let found = is_managed(&service(annotations, &spec, &[]), assign);
            assert_eq!(found, expected, "{annotations} {class} {assign:?}");
        }
        for kind in ["ClusterIP", "NodePort", "ExternalName"] {
            assert!(!is_managed(&service(&asks, &json!({ "type": kind }), &[]), All), "{kind}");
        }
    }

    #[test]
    fn wishes_are_read_or_their_mistake_is_named() {
        let read =
            |annotations: &Value| wish(&balanced(annotations), BTreeMap::new(), "now".to_owned());
        let all = json!({
            V4_POOLS: r#"["a", "10.0.0.0/24"]"#, V6_POOLS: "",
            ADDRESSES: r#"["10.0.0.1", "fd00::1"]"#,
        });
        let wish = read(&all).unwrap();
        assert_eq!((wish.v4, wish.v6, wish.v4_pools.len()), (true, false, 2));
        assert_eq!((wish.v6_pools.len(), wish.addresses.len()), (0, 2));
        assert_eq!(wish.handle, service_handle("web", "prod", "u-1"));
        assert_eq!(wish.attributes["service"], "web");
        for (annotations, words) in [
            (json!({ V4_POOLS: "a" }), "ipv4pools"),
            (json!({ ADDRESSES: r#"["10.0.0"]"# }), "loadBalancerIPs"),
            (json!({ ADDRESSES: r#"["10.0.0.1", "10.0.0.2"]"# }), "one IPv4"),
        ] {
            let error = read(&annotations).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_status_says_what_was_given_and_keeps_what_is_others() {
        let ips = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let ours = |ip: &IpAddr| ip.to_string().starts_with("10.");
        for (told, given, expected) in [
            (&[][..], &["10.0.0.1"][..], Some(&["10.0.0.1"][..])),
            (&["10.0.0.1"], &["10.0.0.1"], None),
            (&["fd00::1", "10.0.0.1"], &["10.0.0.1", "fd00::1"], None),
            (&["192.0.2.1"], &["10.0.0.1"], Some(&["10.0.0.1"])),
            (&["10.0.0.1", "192.0.2.1"], &[], Some(&["192.0.2.1"])),
            (&["192.0.2.1"], &[], None),
            (&[], &[], None),
        ] {
            let service = service(&json!({}), &json!({ "type": "LoadBalancer" }), told);
            let found = status(&service, &ips(given), ours);
            assert_eq!(found, expected.map(ips), "{told:?} {given:?}");
        }
    }
}
