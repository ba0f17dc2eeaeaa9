//! What the kernel refuses, provoked: who has no right to it, and sets that others filled.

use std::process::Command;

use calico_core::dataplane::DataplaneError;

use super::super::Settings;
use super::*;

/// Set for the process that runs a test again without a right.
const WITHOUT_RIGHT: &str = "CALICO_TEST_WITHOUT_NET_ADMIN";

#[test]
fn who_may_not_program_nftables_is_told_what_is_missing() {
    if std::env::var_os(WITHOUT_RIGHT).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let opened = runtime.block_on(LinuxDataplane::open(Arc::new(NoRoutes)));
        let error = opened.expect_err("opened without CAP_NET_ADMIN");
        assert!(matches!(error, DataplaneError::Unsupported { .. }), "{error:?}");
        let told = error.to_string();
        assert!(told.contains("CAP_NET_ADMIN") && told.contains("not permitted"), "{told}");
        println!("told: {told}");
        return;
    }
    in_new_netns(async || {
        let output = Command::new("setpriv")
            .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("dataplane::kernel_tests::refusals::who_may_not_program_nftables_is_told_what_is_missing")
            .env(WITHOUT_RIGHT, "1")
            .output()
            .expect("setpriv is needed: apt-get install util-linux");
        let told = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}{error}");
        assert!(told.contains("told: "), "the test was not run again: {told}{error}");
    });
}

#[test]
fn a_set_that_others_filled_takes_ours_and_loses_theirs() {
    in_new_netns(async || {
        let settings = Settings { guard_interval: None };
        let dataplane = LinuxDataplane::open_with(Arc::new(NoRoutes), settings).await.unwrap();
        let member = |n: u8| SetMember::Net(std::net::IpAddr::from([10, 0, 0, n]).into());
        let set = Update::Set {
            id: "s:many".into(),
            kind: SetKind::Address,
            members: (0..64).map(member).collect(),
        };
        apply(&dataplane, vec![set, Update::InSync]).await;
        let theirs: Vec<_> = (0..32).map(|n| format!("192.0.2.{n}")).collect();
        let theirs = format!("{{ {} }}", theirs.join(", "));
        let nft = |element: &str| {
            let add = ["add", "element", "inet", "calico", "cali40s-many", element];
            Command::new("nft").args(add).output().expect("nft is needed: apt-get install nftables")
        };
        let added = nft(&theirs);
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let full = nft("{ 192.0.2.99 }");
        assert!(String::from_utf8_lossy(&full.stderr).contains("open files"), "ENFILE: {full:?}");
        let more =
            Update::SetDelta { id: "s:many".into(), added: vec![member(200)], removed: vec![] };
        assert_eq!(apply(&dataplane, vec![more]).await.failed, []);
        let mut socket = Socket::open().unwrap();
        let (table, ..) = socket.read_table(Family::Inet, super::super::TABLE).await.unwrap();
        let elements = &table.unwrap().sets["cali40s-many"].elements;
        let last = crate::nft::wire::Element::key([10, 0, 0, 200]);
        assert!(elements.len() == 65 && elements.contains(&last), "{}", elements.len());
    });
}
