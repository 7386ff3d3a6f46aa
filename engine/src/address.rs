//! The form of an address: `HOST:PORT`, without looking anything up.

/// Bytes of the longest host name that DNS allows.
const HOST_LEN_MAX: usize = 253;

/// Checks that `addr` is `HOST:PORT`: a name, an IPv4 address, or an IPv6 address in brackets,
/// and a port from 1 to 65535.
///
/// # Errors
///
/// What is wrong with it, to be put into a sentence.
pub fn check(addr: &str) -> Result<(), &'static str> {
    let (host, port) = addr.rsplit_once(':').ok_or("there is no colon before a port")?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the port is not a number");
    }
    match port.parse::<u16>() {
        Ok(0) => return Err("port 0 cannot be reached by others"),
        Ok(_) if !port.starts_with('0') => {}
        Ok(_) => return Err("the port begins with a zero"),
        Err(_) => return Err("the port is above 65535"),
    }
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("the bracket is not closed")?;
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("there is no IPv6 address in the brackets"),
        };
    }
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.contains(':') {
        return Err("an IPv6 address belongs in brackets");
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.len() > HOST_LEN_MAX || !host.bytes().all(legal) {
        return Err("the host is not a name that DNS allows");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port() {
        for good in ["localhost:9001", "10.0.0.1:1", "[::1]:65535", "a-b.example.org:80", "n_1:2"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let bad = [
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:-1",
            "a:+1",
            "a:01",
            "::1:1",
            "[::1:1",
            "[x]:1",
            "a b:1",
            "http://a:1",
            "ä:1",
            "a:1 ",
        ];
        for bad in bad {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&format!("{}:1", "a".repeat(254))).is_err());
    }
}
