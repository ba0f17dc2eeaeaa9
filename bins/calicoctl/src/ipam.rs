//! `ipam show`.

pub(crate) mod check;
pub(crate) mod configure;
pub(crate) mod gc;
pub(crate) mod release;
mod report;
pub(crate) mod split;

use std::net::IpAddr;
use std::sync::Arc;

use calico_core::Datastore;
use calico_core::resource::IpamConfig;
use calico_ipam::{BlockReport, Ipam, Options, PoolUse, UNPOOLED};

use crate::failure::Failure;
use crate::output::number::{five_digits, share};
use crate::output::table::Table;

/// How full the pools are, block by block if wanted.
pub(crate) async fn pools(store: Arc<dyn Datastore>, with_blocks: bool) -> Result<String, Failure> {
    let uses = Ipam::new(store, Options::default()).utilization().await?;
    Ok(pool_table(&uses, with_blocks).framed())
}

fn pool_table(uses: &[PoolUse], with_blocks: bool) -> Table {
    let mut table =
        Table::new(&["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"]);
    let mut row = |grouping: &str, cidr: String, [total, used, reserved, free]: [u128; 4]| {
        table.rows.push(vec![
            grouping.to_owned(),
            cidr,
            five_digits(total),
            share(used, total),
            share(reserved, total),
            share(free, total),
        ]);
    };
    for pool in uses {
        if pool.name == UNPOOLED {
            if pool.blocks.is_empty() {
                continue;
            }
            // Their blocks are what matters: there is no pool to count.
            row(UNPOOLED, pool.cidr.to_string(), [0; 4]);
        } else {
            let numbers = [pool.capacity, pool.in_use, pool.reserved, pool.available];
            row("IP Pool", pool.cidr.to_string(), numbers);
        }
        if with_blocks {
            for block in &pool.blocks {
                let numbers = [block.capacity, block.in_use, block.reserved, block.available];
                row("Block", block.cidr.to_string(), numbers);
            }
        }
    }
    table
}

/// Who has `ip`.
pub(crate) async fn address(store: Arc<dyn Datastore>, ip: IpAddr) -> Result<String, Failure> {
    let found = Ipam::new(store, Options::default()).lookup(ip).await?;
    let Some(allocation) = found else { return Ok(format!("{ip} is not assigned\n")) };
    let attributes = allocation.attributes;
    if let Some(released) = attributes.released_at {
        return Ok(format!("{ip} is not assigned (released at {released}, cooling down)\n"));
    }
    let mut text = format!("IP {ip} is in use\n");
    if let Some(handle) = attributes.handle_id {
        text.push_str(&format!("Handle ID: {handle}\n"));
    }
    for (title, pairs) in [
        ("Active Owner Attributes", attributes.secondary),
        ("Alternate Owner Attributes", attributes.alternate_owner_attrs),
    ] {
        if !pairs.is_empty() {
            text.push_str(&format!("{title}:\n"));
        }
        for (key, value) in pairs {
            text.push_str(&format!("  {key}: {value}\n"));
        }
    }
    Ok(text)
}

/// Addresses that are used on another node than the one whose block they are from.
pub(crate) async fn borrowed(store: Arc<dyn Datastore>) -> Result<String, Failure> {
    let blocks = Ipam::new(store, Options::default()).blocks().await?;
    Ok(borrowed_table(&blocks).framed())
}

fn borrowed_table(blocks: &[BlockReport]) -> Table {
    let mut table =
        Table::new(&["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"]);
    for block in blocks {
        let owner = block.owner.as_ref().map_or("", |owner| owner.name.as_str());
        for allocation in &block.allocations {
            let attribute =
                |name: &str| allocation.attributes.secondary.get(name).map_or("", String::as_str);
            let node = attribute("node");
            if node.is_empty() || node == owner {
                continue;
            }
            let (kind, to) = match (attribute("type"), attribute("pod")) {
                ("", "") => ("", allocation.attributes.handle_id.clone().unwrap_or_default()),
                ("", pod) => ("pod", format!("{}/{pod}", attribute("namespace"))),
                (kind, _) => (kind, node.to_owned()),
            };
            table.rows.push(vec![
                allocation.address.to_string(),
                node.to_owned(),
                block.cidr.to_string(),
                owner.to_owned(),
                kind.to_owned(),
                to,
            ]);
        }
    }
    table
}

/// IPAM's settings.
pub(crate) async fn configuration(store: Arc<dyn Datastore>) -> Result<String, Failure> {
    let config = Ipam::new(store, Options::default()).config().await?;
    Ok(configuration_table(&config).framed())
}

fn configuration_table(config: &IpamConfig) -> Table {
    let mut table = Table::new(&["PROPERTY", "VALUE"]);
    let persistence = config.kube_virt_vm_address_persistence.unwrap_or_default();
    for (name, value) in [
        ("StrictAffinity", config.strict_affinity.to_string()),
        ("AutoAllocateBlocks", config.auto_allocate_blocks().to_string()),
        ("MaxBlocksPerHost", config.max_blocks_per_host.to_string()),
        ("KubeVirtVMAddressPersistence", persistence.to_string()),
        ("IPCooldownSeconds", config.ip_cooldown_seconds.to_string()),
    ] {
        table.rows.push(vec![name.to_owned(), value]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_core::key::Key;
    use calico_core::kind::Kind;
    use calico_core::memory::MemoryStore;
    use calico_ipam::AssignRequest;

    /// A pool of two blocks: one of `n1`, full, and one of `n2`, from which `n1` borrows.
    async fn store() -> Arc<dyn Datastore> {
        let store: Arc<dyn Datastore> = Arc::new(MemoryStore::new());
        let pool = r#"{"kind":"IPPool","metadata":{"name":"main"},"spec":{"cidr":"10.65.0.0/29","blockSize":30}}"#;
        store.put(Key::resource(Kind::IpPool, None, "main"), pool.into()).await.unwrap();
        let ipam = Ipam::new(Arc::clone(&store), Options::default());
        for (node, count) in [("n1", 4), ("n2", 1), ("n1", 1)] {
            let request = AssignRequest::new(node).handle(format!("net.{node}")).v4(count);
            let request = request.attribute("node", node).attribute("pod", "web");
            let request = request.attribute("namespace", "default");
            ipam.auto_assign(request).await.unwrap().complete().unwrap();
        }
        store
    }

    #[tokio::test]
    async fn pools_and_blocks_are_counted() {
        let text = pools(store().await, true).await.unwrap();
        let heading =
            "| GROUPING |     CIDR     | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE |";
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], heading, "{text}");
        assert_eq!(
            lines[3],
            "| IP Pool  | 10.65.0.0/29 | 8         | 6 (75%)    | 0 (0%)       | 2 (25%)  |"
        );
        assert!(text.contains("| 4         | 4 (100%)   |"), "{text}");
        assert_eq!(lines.len(), 7);
    }

    #[tokio::test]
    async fn an_address_names_its_owner() {
        let store = store().await;
        let blocks = Ipam::new(Arc::clone(&store), Options::default()).blocks().await.unwrap();
        let taken = blocks[0].allocations[0].address;
        let text = address(Arc::clone(&store), taken).await.unwrap();
        let start = format!("IP {taken} is in use\nHandle ID: net.");
        assert!(text.starts_with(&start), "{text}");
        assert!(text.contains("Active Owner Attributes:\n  namespace: default\n"), "{text}");
        let text = address(store, "192.0.2.1".parse().unwrap()).await.unwrap();
        assert_eq!(text, "192.0.2.1 is not assigned\n");
    }

    #[tokio::test]
    async fn borrowed_addresses_and_settings() {
        let store = store().await;
        let text = borrowed(Arc::clone(&store)).await.unwrap();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("| n1 ") && text.contains("| default/web "), "{text}");
        let text = configuration(store).await.unwrap();
        assert!(text.contains("| StrictAffinity               | false   |"), "{text}");
    }
}
