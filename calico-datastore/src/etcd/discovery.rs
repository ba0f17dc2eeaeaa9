//! The members of a cluster, as DNS names them
//! (<https://etcd.io/docs/v3.6/op-guide/clustering/#dns-discovery>).

use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};

/// What is asked for, with the scheme of the endpoints that it names. Those with TLS come first.
const SERVICES: [(&str, &str); 2] =
    [("_etcd-client-ssl._tcp", "https"), ("_etcd-client._tcp", "http")];

/// Time for a name server to answer; each is asked twice.
const PATIENCE: Duration = Duration::from_secs(1);

/// URLs of the members that the SRV records of `domain` name, in the order of their priorities.
///
/// Members with TLS are taken if there are any. Those without are left alone if the cluster is to
/// be `secure`: who answers for DNS must not be able to turn encryption off.
///
/// # Errors
///
/// Why there are none.
pub(super) async fn discover(domain: &str, secure: bool) -> Result<Vec<String>, String> {
    let domain = domain.trim_end_matches('.');
    let resolver = resolver().map_err(|error| {
        format!("no resolver to ask for the SRV records of {domain}: /etc/resolv.conf: {error}")
    })?;
    let mut asked = Vec::new();
    for (service, scheme) in SERVICES {
        if secure && scheme == "http" {
            continue;
        }
        // With a dot at its end, so that no search list comes into play.
        let name = format!("{service}.{domain}.");
        match resolver.lookup(name.as_str(), RecordType::SRV).await {
            Ok(answer) => {
                let urls = urls(answer.answers().iter().map(|record| &record.data), scheme);
                if !urls.is_empty() {
                    return Ok(urls);
                }
                asked.push(format!("{service}.{domain}: none that names a server"));
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let why = match none.response_code {
                    ResponseCode::NXDomain => "no such name (NXDOMAIN)".to_owned(),
                    ResponseCode::NoError => "none".to_owned(),
                    code => code.to_string(),
                };
                asked.push(format!("{service}.{domain}: {why}"));
            }
            // Nobody knows whether there are some: that is no reason to go on without TLS.
            Err(error) => {
                return Err(format!("the SRV records {service}.{domain} are not known: {error}"));
            }
        }
    }
    let hint = match secure {
        true => "; only members with TLS are looked for, as certificates are set",
        false => "",
    };
    Err(format!("no SRV records name a member of etcd ({}){hint}", asked.join("; ")))
}

/// As `/etc/resolv.conf` is now.
fn resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = 2;
    options.cache_size = 0;
    builder.build()
}

fn urls<'a>(records: impl Iterator<Item = &'a RData>, scheme: &str) -> Vec<String> {
    let mut members: Vec<_> = records
        .filter_map(|data| match data {
            // The root is how RFC 2782 says that there is no such service.
            RData::SRV(srv) if !srv.target.is_root() => Some(srv),
            _ => None,
        })
        .collect();
    members.sort_by_key(|srv| srv.priority);
    let url = |name: String, port| format!("{scheme}://{}:{port}", name.trim_end_matches('.'));
    members.iter().map(|srv| url(srv.target.to_ascii(), srv.port)).collect()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::SRV;

    use super::*;

    #[test]
    fn records_become_urls() {
        let record = |priority, port, target: &str| {
            RData::SRV(SRV::new(priority, 0, port, target.parse().unwrap()))
        };
        let records = [
            record(10, 2379, "b.etcd.example."),
            record(0, 2380, "a.etcd.example."),
            record(0, 0, "."),
            RData::A(std::net::Ipv4Addr::LOCALHOST.into()),
        ];
        assert_eq!(
            urls(records.iter(), "https"),
            ["https://a.etcd.example:2380", "https://b.etcd.example:2379"]
        );
    }
}
