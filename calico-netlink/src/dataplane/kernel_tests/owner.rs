//! A table that nobody but its owner can change.

use std::process::{Command, Stdio};

use super::super::Settings;
use super::lab::{forward, nft};
use super::*;

fn others_may(arguments: &[&str]) -> bool {
    let mut command = Command::new("nft");
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("nft is needed as oracle: apt-get install nftables").success()
}

async fn open_owning() -> LinuxDataplane {
    LinuxDataplane::open_owning(Arc::new(NoRoutes), Settings::default()).await.unwrap()
}

#[test]
fn an_owned_table_survives_other_programs_and_its_owner() {
    in_new_netns(async || {
        forward();
        let dataplane = open_owning().await;
        if others_may(&["add", "chain", "inet", "calico", "meddling"]) {
            println!("this kernel does not know tables that are owned and persist");
            return;
        }
        let (server, client) = (Pod::new(1), Pod::new(2));
        apply(&dataplane, everything(&server, &client)).await;
        let passes = |port| {
            let receiver = server.host.udp(server.v4, port);
            client.host.udp(client.v4, 0).send_to(b"x", (server.v4, port)).unwrap();
            receiver.recv_from(&mut [0; 8]).is_ok()
        };
        assert!(passes(7) && !passes(6));
        nft(&["flush", "ruleset"]);
        assert!(!others_may(&["delete", "table", "inet", "calico"]));
        assert!(passes(8) && !passes(6), "nothing changed for a moment");

        // Between two runs everything stays in force; the next one owns it again.
        drop(dataplane);
        let mut orphaned = false;
        for _ in 0..2000 {
            // Its tasks end, and with them its socket, when the runtime comes to them.
            tokio::time::sleep(Duration::from_millis(10)).await;
            orphaned = others_may(&["add", "chain", "inet", "calico", "meanwhile"]);
            if orphaned {
                break;
            }
        }
        assert!(orphaned, "still owned after twenty seconds");
        assert!(passes(7) && !passes(6));
        let dataplane = open_owning().await;
        assert!(passes(9) && !passes(6));
        assert!(!others_may(&["delete", "table", "inet", "calico"]));
        apply(&dataplane, everything(&server, &client)).await;
        assert!(passes(70) && !passes(6));
        dataplane.remove_all().await.unwrap();
        assert_eq!(table().await, None);
    });
}
