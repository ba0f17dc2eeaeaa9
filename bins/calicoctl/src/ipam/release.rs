//! `ipam release`: one address, or what reports call leaked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::datastore::StoreError;
use calico_core::key::Key;
use calico_ipam::{Ipam, IpamError, Options, Release};

use super::report::{LeakedHandle, Report};
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::progress::Progress;

/// Addresses released in one call.
const BATCH: usize = 256;

/// Releases one address, whoever has it.
pub(crate) async fn address(store: Arc<dyn Datastore>, ip: IpAddr) -> Result<String, Failure> {
    let release = Release { address: ip, handle: None, sequence: None };
    let answer = Ipam::new(store, Options::default()).release_ips(&[release]).await?;
    if answer.released.is_empty() {
        return Err(Failure::Usage(format!("{ip} is not assigned")));
    }
    Ok(format!("Successfully released IP address {ip}\n"))
}

/// Releases what every one of the reports calls leaked.
pub(crate) async fn from_reports(
    store: Arc<dyn Datastore>,
    version: &str,
    paths: &[PathBuf],
    force: bool,
) -> Result<String, Failure> {
    let reports: Vec<Report> = paths.iter().map(|p| Report::read(p)).collect::<Result<_, _>>()?;
    let cluster = Cluster::read(&*store).await?.unwrap_or_default();
    vet(&reports, paths, &cluster, version, force)?;
    let (addresses, handles) = leaked(&reports);
    let ipam = Ipam::new(Arc::clone(&store), Options::default());
    let (mut released, mut passed) = (0, Vec::new());
    let mut progress = Progress::new("releasing addresses");
    for (at, batch) in addresses.chunks(BATCH).enumerate() {
        progress.at(at * BATCH, addresses.len());
        match ipam.release_ips(batch).await {
            Ok(answer) => {
                released += answer.released.len();
                passed.extend(answer.unassigned.iter().map(|ip| format!("{ip} is not assigned")));
            }
            // One of them has a new owner: find out which.
            Err(IpamError::OtherOwner { .. }) => {
                for release in batch {
                    match ipam.release_ips(std::slice::from_ref(release)).await {
                        Ok(answer) => released += answer.released.len(),
                        Err(error @ IpamError::OtherOwner { .. }) => passed.push(error.to_string()),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    drop(progress);
    let mut gone = 0;
    for handle in &handles {
        match delete_handle(&*store, handle).await {
            Ok(()) => gone += 1,
            Err(error) if error.is_not_found() => {}
            Err(StoreError::Conflict { .. }) => {
                passed.push(format!("handle {} is in use again", handle.id));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut out = format!("Released {released} address(es) and {gone} handle(s)\n");
    for line in passed {
        out.push_str(&format!("  left alone: {line}\n"));
    }
    Ok(out)
}

async fn delete_handle(store: &dyn Datastore, handle: &LeakedHandle) -> Result<(), StoreError> {
    let key = Key::Handle(handle.id.clone());
    let revision = handle.revision.parse().map_err(|error| StoreError::bad_object(&key, &error))?;
    store.delete(key, Some(revision)).await.map(drop)
}

/// Whether the reports may be believed.
fn vet(
    reports: &[Report],
    paths: &[PathBuf],
    cluster: &Cluster,
    version: &str,
    force: bool,
) -> Result<(), Failure> {
    let guid = &cluster.information.spec.cluster_guid;
    for (report, path) in reports.iter().zip(paths) {
        let path = path.display();
        if report.cluster_guid != *guid {
            return Err(Failure::Usage(format!(
                "{path} is about another cluster ({}, this is {guid})",
                report.cluster_guid
            )));
        }
        if report.version != version && !force {
            return Err(Failure::Usage(format!(
                "{path} was written by version {}, this is {version}; make a new report, or use \
                 --force",
                report.version
            )));
        }
    }
    if force {
        return Ok(());
    }
    if !cluster.is_locked() {
        return Err(Failure::Usage(
            "the datastore is not locked: addresses may be assigned meanwhile; run `calicoctl \
             datastore migrate lock` first, or use --force"
                .to_owned(),
        ));
    }
    // Locking writes the object, so that an older report has an older revision.
    let current = cluster.revision.to_string();
    let is_current =
        |report: &Report| report.datastore_locked && report.cluster_information_revision == current;
    if !reports.iter().any(is_current) {
        return Err(Failure::Usage(
            "none of the reports was made since the datastore was locked; run `calicoctl ipam \
             check -o` again, or use --force"
                .to_owned(),
        ));
    }
    Ok(())
}

type Leak = (IpAddr, String, Option<u64>);

/// What is leaked according to every report.
fn leaked(reports: &[Report]) -> (Vec<Release>, Vec<LeakedHandle>) {
    let mut addresses: HashMap<Leak, usize> = HashMap::new();
    let mut handles: HashMap<(&str, &str), (usize, &LeakedHandle)> = HashMap::new();
    for report in reports {
        for (ip, allocations) in &report.allocations {
            for a in allocations.iter().filter(|a| !a.in_use && !a.cooling_down) {
                *addresses.entry((*ip, a.handle.clone(), a.sequence_number)).or_default() += 1;
            }
        }
        for handle in &report.leaked_handles {
            let seen = handles.entry((&handle.id, &handle.revision)).or_insert((0, handle));
            seen.0 += 1;
        }
    }
    let mut releases: Vec<Release> = addresses
        .into_iter()
        .filter(|(_, count)| *count >= reports.len())
        .map(|((address, handle, sequence), _)| Release {
            address,
            handle: (!handle.is_empty()).then_some(handle),
            sequence,
        })
        .collect();
    releases.sort_by_key(|release| release.address);
    let handles = handles.into_values().filter(|(count, _)| *count >= reports.len());
    let mut handles: Vec<LeakedHandle> = handles.map(|(_, handle)| handle.clone()).collect();
    handles.sort_by(|a, b| a.id.cmp(&b.id));
    (releases, handles)
}

#[cfg(test)]
mod tests {
    use super::super::check::{self, Request, tests::leaky_store};
    use super::*;
    use calico_core::key::Scope;
    use std::path::Path;

    async fn report(store: &Arc<dyn Datastore>, path: &Path) {
        let request = Request { output: Some(path), ..Request::default() };
        check::run(Arc::clone(store), "v1", request).await.unwrap();
    }

    #[tokio::test]
    async fn leaks_of_every_report_go_and_nothing_else() {
        let store = leaky_store().await;
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("1"), dir.path().join("2")];
        report(&store, &paths[0]).await;
        report(&store, &paths[1]).await;
        let run = async |version: &str, force| {
            from_reports(Arc::clone(&store), version, &paths, force).await
        };
        let error = run("v2", false).await.unwrap_err().to_string();
        assert!(error.contains("written by version v1"), "{error}");
        assert_eq!(run("v1", false).await.unwrap(), "Released 1 address(es) and 1 handle(s)\n");
        let left = Ipam::new(Arc::clone(&store), Options::default()).blocks().await.unwrap();
        assert_eq!(left[0].allocations.len(), 2);
        assert_eq!(store.list(&Scope::Handles).await.unwrap().entries.len(), 2);
        let again = run("v1", false).await.unwrap();
        assert!(again.contains("Released 0 address(es) and 0 handle(s)\n"), "{again}");
        assert!(again.contains("left alone: 10.65.0."), "{again}");
    }

    #[tokio::test]
    async fn reports_must_be_of_this_cluster_and_since_the_lock() {
        let store = leaky_store().await;
        let dir = tempfile::tempdir().unwrap();
        let path = [dir.path().join("1")];
        report(&store, &path[0]).await;
        let run = async |force| from_reports(Arc::clone(&store), "v1", &path, force).await;
        let fails = async |part: &str| {
            let error = run(false).await.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        crate::cluster::set_ready(&*store, true).await.unwrap();
        fails("is not locked").await;
        crate::cluster::set_ready(&*store, false).await.unwrap();
        fails("since the datastore was locked").await;
        let mut foreign = Report::read(&path[0]).unwrap();
        foreign.cluster_guid = "other".to_owned();
        foreign.write(&path[0]).unwrap();
        assert!(run(true).await.unwrap_err().to_string().contains("another cluster"));
    }

    #[tokio::test]
    async fn one_address() {
        let store = leaky_store().await;
        let blocks = Ipam::new(Arc::clone(&store), Options::default()).blocks().await.unwrap();
        let ip = blocks[0].allocations[0].address;
        let said = address(Arc::clone(&store), ip).await.unwrap();
        assert_eq!(said, format!("Successfully released IP address {ip}\n"));
        let again = address(store, ip).await.unwrap_err().to_string();
        assert_eq!(again, format!("{ip} is not assigned"));
    }
}
