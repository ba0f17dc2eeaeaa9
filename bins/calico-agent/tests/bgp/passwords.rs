//! Passwords from files, changed while everything runs.

use calico_bgp::speaker::Password;
use calico_core::kind::Kind;
use serde_json::json;

use super::common::{Cluster, TOR_AS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_restarts_the_session_that_has_it_and_no_other() {
    let mut cluster = Cluster::new().await;
    let secret = cluster.secrets().join("tor");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("password"), "first\n").unwrap();
    let tor = cluster.tor(|peer| peer.password = Some(Password::new("first").unwrap())).await;
    let reference = json!({"secretKeyRef": {"name": "tor", "key": "password"}});
    let peer = json!({"peerIP": cluster.tor_peer_ip(), "asNumber": TOR_AS, "password": reference});
    cluster.put(Kind::BgpPeer, "tor", peer).await;
    cluster.start("a");
    cluster.start("b");
    let (b, outside) = (cluster.address("b"), cluster.address("tor"));
    let mesh = cluster.established("a", b).await;
    let first = cluster.established("a", outside).await;

    // The file first, then the other side: in between they do not understand each other.
    std::fs::write(secret.join("password"), "second").unwrap();
    cluster
        .until("the session to end", async || {
            let (_, uptime) = cluster.session("a", outside).await?;
            (uptime != first).then_some(())
        })
        .await;
    cluster
        .set_tor_peers(&tor, |peer| peer.password = Some(Password::new("second").unwrap()))
        .await;
    let second = cluster.established("a", outside).await;
    assert_ne!(second, first);

    // Without the file it is a session without a password, which the router outside refuses.
    std::fs::remove_file(secret.join("password")).unwrap();
    let why = "BGPPeer tor: the session runs without a password: secret tor/password is not there";
    cluster
        .until("the missing password to be noted", async || {
            let plan = cluster.view("a").report().await?.plan;
            plan.notes.iter().any(|note| note.to_string().starts_with(why)).then_some(())
        })
        .await;
    assert_eq!(cluster.session("a", b).await.unwrap().1, mesh, "the mesh has no part in it");

    // The mesh has a password of its own; both ends read it.
    std::fs::create_dir(cluster.secrets().join("mesh")).unwrap();
    std::fs::write(cluster.secrets().join("mesh/word"), "third").unwrap();
    let reference = json!({"secretKeyRef": {"name": "mesh", "key": "word"}});
    cluster.configure(json!({"nodeMeshPassword": reference})).await;
    cluster
        .until("the mesh to restart", async || {
            let (_, uptime) = cluster.session("a", b).await?;
            (uptime != mesh).then_some(())
        })
        .await;
    cluster.established("a", b).await;
    let plan = cluster.view("a").report().await.unwrap().plan;
    let session = plan.sessions.iter().find(|session| session.address == b).unwrap();
    assert_eq!(session.password, Some(Password::new("third").unwrap()));
    cluster.stop().await;
}
