//! What the two ends tell each other in xenstore.

use alloc::string::String;

use pv_abi::io::netif::feature;

use crate::net::Takes;

/// What the back end publishes before it waits for a front end.
pub const OFFERED: [(&str, &str); 9] = [
    (feature::RX_COPY, "1"),
    ("feature-rx-flip", "0"),
    (feature::SG, "1"),
    (feature::GSO_TCPV4, "1"),
    (feature::GSO_TCPV6, "1"),
    (feature::IPV6_CSUM_OFFLOAD, "1"),
    (feature::SPLIT_EVENT_CHANNELS, "1"),
    (feature::MULTI_QUEUE_MAX_QUEUES, "1"),
    ("feature-ctrl-ring", "0"),
];

/// What a front end wrote about what it receives; `read` gives a node of its directory.
///
/// # Errors
/// In words: the front end wants what is not offered.
pub fn front_end(read: &mut dyn FnMut(&str) -> Option<String>) -> Result<Takes, &'static str> {
    let mut number = |name: &str| read(name).and_then(|text| text.trim().parse::<u32>().ok());
    if number("multi-queue-num-queues").is_some_and(|queues| queues > 1) {
        return Err("the front end wants several queues");
    }
    let mut is_set = |name: &str| number(name).is_some_and(|value| value != 0);
    if !is_set(feature::REQUEST_RX_COPY) {
        return Err("the front end does not ask for copies");
    }
    let several_pages = is_set(feature::SG);
    Ok(Takes {
        blank_v4: !is_set(feature::NO_CSUM_OFFLOAD),
        blank_v6: is_set(feature::IPV6_CSUM_OFFLOAD),
        gso_v4: several_pages && is_set(feature::GSO_TCPV4),
        gso_v6: several_pages && is_set(feature::GSO_TCPV6),
        several_pages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn told(nodes: &[(&str, &str)]) -> Result<Takes, &'static str> {
        let find =
            |name: &str| nodes.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        front_end(&mut |name| find(name))
    }

    #[test]
    fn what_is_absent_is_not_taken() {
        assert!(told(&[]).is_err());
        let plain = told(&[("request-rx-copy", "1")]).unwrap();
        assert_eq!(plain, Takes { blank_v4: true, ..Takes::default() });
        let none =
            told(&[("request-rx-copy", "1"), ("feature-no-csum-offload", "1"), ("feature-gso-tcpv4", "1")]);
        assert_eq!(none.unwrap(), Takes::default(), "segmentation needs several pages");
    }

    #[test]
    fn what_linux_tells() {
        let names =
            ["request-rx-copy", "feature-rx-notify", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6"];
        let mut nodes = names.map(|name| (name, "1")).to_vec();
        nodes.push(("feature-ipv6-csum-offload", "1"));
        let all = Takes { blank_v4: true, blank_v6: true, gso_v4: true, gso_v6: true, several_pages: true };
        assert_eq!(told(&nodes), Ok(all));
        nodes.push(("multi-queue-num-queues", "4"));
        assert!(told(&nodes).is_err());
        nodes.pop();
        nodes.push(("multi-queue-num-queues", "garbage"));
        assert_eq!(told(&nodes), Ok(all));
    }
}
