//! What it means to own a table (`NFT_TABLE_F_OWNER`, Linux 5.12; `NFT_TABLE_F_PERSIST`, Linux 6.9),
//! and what that means for other programs on the host.

use std::process::Command;

use super::batch::Batch;
use super::socket::Socket;
use super::test_support::in_new_netns;
use super::wire::{Family, table_flags};

const TABLE: &str = "owned";

fn nft(arguments: &[&str]) -> bool {
    let output = Command::new("nft").args(arguments).output();
    output.expect("nft is needed as oracle: apt-get install nftables").status.success()
}

fn is_there() -> bool {
    nft(&["list", "table", "inet", TABLE])
}

fn adding(flags: u32) -> Batch {
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.add_table_with(flags);
    batch
}

#[test]
fn an_owned_table_is_its_owners_alone_and_outlives_it_only_if_it_persists() {
    in_new_netns(async || {
        let mut owner = Socket::open().unwrap();
        if owner.commit(&adding(table_flags::OWNER), None).await.is_err() {
            println!("this kernel does not know owners of tables");
            return;
        }
        // Others can read it, but neither change nor flush it.
        assert!(is_there());
        assert!(!nft(&["add", "chain", "inet", TABLE, "c"]));
        assert!(nft(&["flush", "ruleset"]) && is_there());
        // Nor does it fail what others do in the same breath, as when a firewall is reloaded.
        assert!(nft(&["flush ruleset; add table inet other; add chain inet other c"]));
        assert!(is_there() && nft(&["list", "chain", "inet", "other", "c"]));
        // But a listing of everything cannot be restored: our table is in it.
        assert!(!nft(&[&format!("flush ruleset; add table inet {TABLE}; add table inet late")]));
        assert!(is_there() && nft(&["list", "chain", "inet", "other", "c"]), "all or nothing");
        let mut other = Socket::open().unwrap();
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_chain("c", None);
        assert!(other.commit(&batch, None).await.is_err());
        // Without the other flag a restart would be a gap.
        drop(owner);
        wait_until(|| !is_there());

        let mut owner = Socket::open().unwrap();
        let both = table_flags::OWNER | table_flags::PERSIST;
        if owner.commit(&adding(both), None).await.is_err() {
            println!("this kernel does not let owned tables persist");
            return;
        }
        owner.commit(&batch, None).await.unwrap();
        assert!(nft(&["flush", "ruleset"]) && is_there());
        drop(owner);
        // It stays, without an owner: anybody can change it now, and the next owner takes it over
        // as it is.
        let mut next = Socket::open().unwrap();
        wait_until(|| nft(&["add", "chain", "inet", TABLE, "meanwhile"]));
        next.commit(&adding(both), None).await.unwrap();
        assert!(nft(&["list", "chain", "inet", TABLE, "c"]));
        assert!(!nft(&["add", "chain", "inet", TABLE, "late"]));
        // A table that was made without the flags cannot come to have them.
        let mut plain = Batch::new(Family::Inet, "plain");
        plain.add_table();
        next.commit(&plain, None).await.unwrap();
        let mut plain = Batch::new(Family::Inet, "plain");
        plain.add_table_with(both);
        assert!(next.commit(&plain, None).await.is_err());
    });
}

/// The kernel cleans up after a socket in its own time.
fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within twenty seconds");
}
