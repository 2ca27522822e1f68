//! Names in a real DNS server: addresses, SRV records, and answers that are none.

use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};

use postroad::discovery::Target;

use super::discovery::{has_peer, until, until_urls};
use super::support::Tested;

/// A dnsmasq of the test's own.
struct Dns {
    child: Child,
    port: u16,
}

impl Dns {
    fn start(port: u16, records: &[&str]) -> Tested<Self> {
        let child = Command::new("dnsmasq")
            .args([
                "--no-daemon",
                "--bind-interfaces",
                "--no-resolv",
                "--no-hosts",
            ])
            .args(["--conf-file=/dev/null", "--user=", "--pid-file="])
            .args([
                "--listen-address=127.0.0.1",
                "--local=/test/",
                "--local-ttl=1",
            ])
            .arg(format!("--port={port}"))
            .args(records)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, port })
    }

    fn stop(&mut self) -> Tested {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn restart(&mut self, records: &[&str]) -> Tested {
        self.stop()?;
        *self = Self::start(self.port, records)?;
        Ok(())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.stop();
    }
}

fn free_port() -> Tested<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[tokio::test]
async fn the_addresses_of_a_name_are_followed_and_a_server_that_is_down_takes_none_away() -> Tested
{
    if !has_peer("dnsmasq", "dnsmasq-base") {
        return Ok(());
    }
    let two = [
        "--host-record=orders.test,10.0.0.1,fd00::1",
        "--host-record=orders.test,10.0.0.2",
    ];
    let mut dns = Dns::start(free_port()?, &two)?;
    let url = format!(
        "dns://orders.test:7400?server=127.0.0.1:{}&keep=0s",
        dns.port
    );
    let target: Target = url.parse()?;
    let mut found = target.follow(None)?;
    let expected = [
        "tcp://10.0.0.1:7400",
        "tcp://10.0.0.2:7400",
        "tcp://[fd00::1]:7400",
    ];
    until_urls(&mut found, &expected).await;
    dns.restart(&["--host-record=orders.test,10.0.0.3"])?;
    until_urls(&mut found, &["tcp://10.0.0.3:7400"]).await;
    dns.stop()?;
    let down = until(&mut found, |found| found.trouble.is_some()).await;
    assert_eq!(down.instances.len(), 1, "{down}");
    dns.restart(&[])?;
    let gone = until(&mut found, |found| found.gone.is_some()).await;
    assert!(
        gone.to_string().contains("last known: tcp://10.0.0.3:7400"),
        "{gone}"
    );
    Ok(())
}

#[tokio::test]
async fn srv_records_give_port_priority_and_weight() -> Tested {
    if !has_peer("dnsmasq", "dnsmasq-base") {
        return Ok(());
    }
    let records = [
        "--srv-host=_orders._tcp.test,a.test,7001,1,5",
        "--srv-host=_orders._tcp.test,b.test,7002,0,0",
        "--srv-host=_orders._tcp.test,nowhere.test,7003,0,9",
        "--host-record=a.test,10.0.0.1",
        "--host-record=b.test,10.0.0.2",
    ];
    let dns = Dns::start(free_port()?, &records)?;
    let server = format!("server=127.0.0.1:{}", dns.port);
    let target: Target = format!("srv://_orders._tcp.test?{server}&transport=tls&ca=x").parse()?;
    let mut found = target.follow(None)?;
    let expected = [
        "tls://10.0.0.2:7002?ca=x&name=b.test",
        "tls://10.0.0.1:7001?ca=x&name=a.test",
    ];
    let seen = until_urls(&mut found, &expected).await;
    let ranks: Vec<_> = seen
        .instances
        .iter()
        .map(|i| (i.priority, i.weight))
        .collect();
    assert_eq!(ranks, [(0, 0), (1, 5)]);

    // A server that refuses says nothing of the name.
    let target: Target = format!("dns://elsewhere.example:1?{server}").parse()?;
    let mut found = target.follow(None)?;
    let refused = until(&mut found, |found| found.trouble.is_some()).await;
    assert!(refused.gone.is_none() && !refused.has_answered, "{refused}");
    // A name that is not there is an answer.
    let target: Target = format!("dns://nobody.test:1?{server}").parse()?;
    let mut found = target.follow(None)?;
    let none = until(&mut found, |found| found.gone.is_some()).await;
    assert!(none.has_answered && none.trouble.is_none(), "{none}");
    Ok(())
}
