//! Batches that the kernel refuses.

use super::*;

#[test]
fn a_refused_batch_changes_nothing_and_names_each_culprit() {
    in_new_netns(async || {
        let mut socket = Socket::open().unwrap();
        let before = nft_list();
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_table();
        batch.add_chain("good", None);
        let jump = vec![Expr::Verdict(Verdict::Jump("nowhere".into()))];
        batch.add_rule("good", &jump, "first culprit");
        batch.delete_chain("absent");
        let Err(Error::Refused(refusals)) = socket.commit(&batch, None).await else {
            panic!("not refused");
        };
        let subjects: Vec<_> =
            refusals.iter().map(|r| r.subject.as_ref().unwrap().to_string()).collect();
        assert_eq!(subjects, ["add rule good (first culprit)", "delete chain absent"]);
        assert!(Error::Refused(refusals).is_stale());
        assert_eq!(nft_list(), before);
    });
}

#[test]
fn more_refusals_than_fit_are_an_error_not_a_hang() {
    in_new_netns(async || {
        let mut socket = Socket::open().unwrap();
        let mut batch = Batch::new(Family::Inet, TABLE);
        for n in 0..50_000 {
            batch.delete_chain(&format!("absent{n}"));
        }
        for _ in 0..2 {
            let refused = socket.commit(&batch, None).await;
            assert!(matches!(&refused, Err(error) if error.is_stale()), "{:.300?}", refused);
        }
        // The socket is fit for use.
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_table();
        socket.commit(&batch, None).await.unwrap();
    });
}

#[test]
fn a_change_by_others_is_noticed() {
    in_new_netns(async || {
        let mut socket = Socket::open().unwrap();
        let generation = socket.generation().await.unwrap();
        assert!(
            Command::new("nft").args(["add", "table", "ip", "other"]).status().unwrap().success()
        );
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_table();
        let refused = socket.commit(&batch, Some(generation)).await;
        assert!(matches!(refused, Err(Error::GenerationChanged)), "{refused:?}");
        assert!(!nft_list().contains(TABLE));
        let generation = socket.generation().await.unwrap();
        socket.commit(&batch, Some(generation)).await.unwrap();
        assert!(nft_list().contains(TABLE));
    });
}
