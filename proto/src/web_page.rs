//! Distinguishes the requests of web pages from those of programs.
//!
//! A browser lets any page send requests to any port that it reaches, also to one that `ssh -L`, `socat` or nginx
//! forwards to the socket. The peer is the forwarding program then, so the check of the peer's user accepts the page,
//! and a page that can open a WebSocket can run commands. Browsers set header fields that no client of codexd sends.

/// Header fields that a browser sets and a page cannot remove ("forbidden request-header" of the Fetch standard),
/// and that no client of codexd sends.
///
/// A browser sends `Origin` with each opening handshake of a WebSocket (RFC 6455, section 4.1) and with each POST.
const BROWSER_FIELDS: [&str; 5] = ["origin", "referer", "cookie", "dnt", "upgrade-insecure-requests"];

/// Families of such fields: `Sec-Fetch-*`, `Sec-CH-*`, `Sec-GPC`, and the request fields of a preflight.
const BROWSER_FAMILIES: [&str; 2] = ["sec-", "access-control-request-"];

/// The family that every client of a WebSocket sends (RFC 6455, section 11.3).
const WEBSOCKET_FAMILY: &str = "sec-websocket-";

/// Returns the first of these header fields that only a browser sends; case does not matter.
pub fn browser_field<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().find(|name| {
        let begins =
            |with: &str| name.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
        BROWSER_FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
            || (BROWSER_FAMILIES.iter().any(|family| begins(family)) && !begins(WEBSOCKET_FAMILY))
    })
}

/// Whether a `Host` can be that of a page whose name was made to resolve to this machine (DNS rebinding).
///
/// A `GET` of such a page to its own name has none of the [browser's fields](browser_field), but it has the name. Names
/// that cannot be registered are excepted: IP addresses, names of one label (`localhost`, `codexd`) and names below
/// `localhost` (RFC 6761, section 6.3).
pub fn is_rebindable(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host.trim_ascii()) else { return true };
    if host.starts_with('[') {
        return false;
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let below_localhost =
        || name.rsplit_once('.').is_some_and(|(_, top)| top.eq_ignore_ascii_case("localhost"));
    name.contains('.') && name.parse::<core::net::Ipv4Addr>().is_err() && !below_localhost()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_browsers_are_distinguished_from_those_of_programs() {
        for name in [
            "Origin",
            "ORIGIN",
            "Sec-Fetch-Site",
            "sec-fetch-mode",
            "Sec-Fetch-Dest",
            "Sec-Fetch-User",
            "Sec-Fetch-Storage-Access",
            "Sec-CH-UA",
            "Sec-GPC",
            "Sec-Purpose",
            "Referer",
            "Cookie",
            "DNT",
            "Upgrade-Insecure-Requests",
            "Access-Control-Request-Method",
            "Access-Control-Request-Private-Network",
        ] {
            assert_eq!(browser_field(["host", name, "x"]), Some(name));
        }
        let programs = [
            "Host",
            "User-Agent",
            "Accept",
            "Upgrade",
            "Connection",
            "Sec-WebSocket-Key",
            "sec-websocket-version",
            "Sec-WebSocket-Extensions",
            "Authorization",
            "X-Forwarded-For",
            "X-Prometheus-Scrape-Timeout-Seconds",
            "sec",
            "Originator",
            "é",
            "",
        ];
        assert_eq!(browser_field(programs), None);
    }

    #[test]
    fn only_names_that_can_be_registered_are_rebindable() {
        for host in [
            "",
            "localhost",
            "localhost:8080",
            "LOCALHOST.",
            "codexd",
            "app.localhost:1",
            "127.0.0.1",
            "10.0.0.7:9100",
            "[::1]:80",
            "[::1]",
            " codexd ",
        ] {
            assert!(!is_rebindable(host.as_bytes()), "{host}");
        }
        for host in
            ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example.", "a.b"]
        {
            assert!(is_rebindable(host.as_bytes()), "{host}");
        }
        assert!(is_rebindable(b"\xff"));
    }
}
