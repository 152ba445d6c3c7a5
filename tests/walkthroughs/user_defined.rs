//! A network of one's own: docs/tutorials/user-defined-network.md.

use anyhow::{Result, ensure};

use crate::site::{Site, bare, can_run, soon};

#[test]
fn a_page_comes_by_name_from_another_host() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::new("own", 3, 3, "")?;
    site.ok(1, "vswitchd network create --attachable my-overlay")?;
    site.ok(2, "mkdir /run/www && echo 'Hello from my-nginx' > /run/www/index.html")?;
    let serve = "busybox httpd -f -p 80 -h /run/www";
    site.ok(2, &format!("vswitchd run -d --name my-nginx --network my-overlay -- {serve}"))?;

    let address = site.address(2, "my-overlay", "my-nginx")?;
    soon(|| known_elsewhere(&site, &address))?;

    let fetch = "busybox wget -q -O - http://my-nginx/";
    for host in 1..=3 {
        let page = soon(|| site.ok(host, &format!("vswitchd run --rm --network my-overlay -- {fetch}")))?;
        ensure!(page == "Hello from my-nginx\n", "{page}");
    }
    ensure!(site.ok(3, "vswitchd ps -aq")?.is_empty());
    site.fails(1, &format!("busybox wget -O - http://{}/", bare(&address)), 1, &[])?;

    let rm = "vswitchd network rm my-overlay";
    site.fails(1, rm, 1, &["in use by my-nginx on node2: "])?;
    ensure!(site.ok(2, "vswitchd rm --force my-nginx")? == "my-nginx\n");
    ensure!(soon(|| site.ok(1, rm))? == "my-overlay\n");
    site.end()
}

fn known_elsewhere(site: &Site, address: &str) -> Result<()> {
    let shown = site.inspect(1, "my-overlay")?;
    ensure!(shown["Containers"].is_null(), "it is not here: {shown}");
    let all = &shown["Endpoints"];
    ensure!((&all[0]["Name"], &all[0]["Node"]) == (&"my-nginx".into(), &"node2".into()), "{shown}");
    ensure!(all[0]["IPv4Address"] == address && shown["Peers"][0]["Name"] == "node2", "{shown}");
    Ok(())
}
