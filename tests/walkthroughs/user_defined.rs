//! A network of one's own: docs/tutorials/user-defined-network.md.

use anyhow::{Result, ensure};

use crate::site::{Site, bare, can_run, cell, soon};

#[test]
fn a_page_comes_by_name_from_another_host() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::new("own", 3, 3, "")?;
    site.ok(1, "vswitchd network create --attachable my-overlay")?;
    site.ok(2, "mkdir /run/www && echo 'Hello from my-nginx' > /run/www/index.html")?;
    let serve = "busybox httpd -f -p 80 -h /run/www";
    let publish = "--publish published=8080,target=80";
    site.ok(2, &format!("vswitchd run -d --name my-nginx --network my-overlay {publish} -- {serve}"))?;
    ensure!(
        cell(&site.ok(2, "vswitchd ps")?, "my-nginx", "PORTS")? == "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
    );

    let address = site.address(2, "my-overlay", "my-nginx")?;
    soon(|| known_elsewhere(&site, &address))?;

    let fetch = "busybox wget -q -O - http://my-nginx/";
    for host in 1..=3 {
        let page = soon(|| site.ok(host, &format!("vswitchd run --rm --network my-overlay -- {fetch}")))?;
        ensure!(page == "Hello from my-nginx\n", "{page}");
    }
    ensure!(site.ok(3, "vswitchd ps -aq")?.is_empty());
    let outside = site.ok(1, "busybox wget -q -O - http://198.18.0.2:8080/")?;
    ensure!(outside == "Hello from my-nginx\n", "{outside}");
    site.fails(1, &format!("busybox wget -O - http://{}/", bare(&address)), 1, &[])?;

    let rm = "vswitchd network rm my-overlay";
    site.fails(1, rm, 1, &["in use by my-nginx on node2: "])?;
    ensure!(site.ok(2, "vswitchd rm --force my-nginx")? == "my-nginx\n");
    site.fails(1, "busybox wget -O - http://198.18.0.2:8080/", 1, &["Connection refused"])?;
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
