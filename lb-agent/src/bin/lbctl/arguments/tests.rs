//! Command lines that people type, and those that nobody would.

use clap::error::ErrorKind;
use proptest::prelude::*;

use super::*;

/// Words of command lines, and what looks like one.
fn word() -> impl Strategy<Value = String> {
    const WORDS: [&str; 40] = [
        "vip",
        "service",
        "backend",
        "drop",
        "explain",
        "trace",
        "event",
        "conflict",
        "status",
        "doctor",
        "help",
        "list",
        "show",
        "drain",
        "undrain",
        "weight",
        "reset",
        "follow",
        "s",
        "--all",
        "--service",
        "--service=",
        "--client",
        "--vip",
        "--port",
        "--count",
        "--seconds",
        "--from",
        "--reply",
        "--kind",
        "--protocol",
        "--socket",
        "--output",
        "-o",
        "-ojson",
        "--",
        "syn",
        "udp",
        "node",
        "-",
    ];
    prop_oneof![
        6 => prop::sample::select(&WORDS[..]).prop_map(str::to_owned),
        2 => socket_address().prop_map(|address| address.to_string()),
        1 => any::<IpAddr>().prop_map(|address| address.to_string()),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => "[0-9a-f:.\\[\\]/%]{0,30}",
        1 => "-{0,2}\\PC{0,12}",
    ]
}

fn socket_address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(SocketAddr::from)
}

#[test]
fn a_trace_is_of_clients_or_of_a_caller() {
    let check = |words: &str, expected: Result<Option<&str>, ErrorKind>| {
        let line = format!("lbctl trace {words}");
        let found = match Cli::try_parse_from(line.split_whitespace()) {
            Ok(Cli { command: Command::Trace(arguments), .. }) => Ok(arguments.from),
            Ok(_) => panic!("another command: {words}"),
            Err(error) => Err(error.kind()),
        };
        assert_eq!(found, expected.map(|from| from.map(str::to_owned)), "{words}");
    };
    check("", Ok(None));
    check("--client 192.0.2.7", Ok(None));
    check("--from web-1", Ok(Some("web-1")));
    check("--from node --vip 192.0.2.7 --port 80", Ok(Some("node")));
    check("--from web-1 --client 192.0.2.7", Err(ErrorKind::ArgumentConflict));
    check("--from", Err(ErrorKind::InvalidValue));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Understood, or refused as a mistake of whoever typed it, with what is wrong.
    #[test]
    fn any_words_are_a_command_or_wrong_usage(words in prop::collection::vec(word(), 0..9)) {
        let line = std::iter::once("lbctl".to_owned()).chain(words.iter().cloned());
        match Cli::try_parse_from(line) {
            Ok(Cli { command: Command::Explain(arguments), .. }) => {
                let what = arguments.what();
                let is_typed = |text: String| words.iter().any(|word| word.contains(&text));
                match what {
                    Ok(Explained::Call(from, _)) => prop_assert!(is_typed(from)),
                    Ok(Explained::Packet(..)) => prop_assert!(arguments.packet.len() == 2),
                    Err(message) => prop_assert!(message.contains("is no address"), "{}", message),
                }
            }
            Ok(_) => {}
            Err(error) => {
                let is_shown = matches!(
                    error.kind(),
                    ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                );
                prop_assert!(is_shown || error.exit_code() == 2, "{}", error);
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn what_is_explained_is_what_was_typed(
        client in socket_address(),
        vip in socket_address(),
        name in "[a-z0-9][a-z0-9_.-]{0,20}",
    ) {
        let explained = |words: &[&str]| {
            let line = ["lbctl", "explain"].iter().chain(words);
            match Cli::try_parse_from(line).expect("a command").command {
                Command::Explain(arguments) => arguments.what(),
                _ => panic!("another command"),
            }
        };
        let (bare, vip_text) = (client.ip().to_string(), vip.to_string());
        let any_port = SocketAddr::new(client.ip(), ANY_CLIENT_PORT);
        prop_assert_eq!(
            explained(&[&client.to_string(), &vip_text]), Ok(Explained::Packet(client, vip)));
        prop_assert_eq!(explained(&[&bare, &vip_text]), Ok(Explained::Packet(any_port, vip)));
        prop_assert_eq!(
            explained(&["--from", &name, &vip_text]), Ok(Explained::Call(name.clone(), vip)));
        // Where it goes has a port.
        prop_assert!(explained(&[&bare, &vip.ip().to_string()]).is_err());
    }

    #[test]
    fn a_weight_is_a_number_or_nothing(number: i64, text in "[+-]?[0-9]{0,7}|res[et]{0,3}|\\PC{0,6}") {
        let expected = u16::try_from(number).ok().map(|weight| Weight(Some(weight)));
        prop_assert_eq!(parse_weight(&number.to_string()).ok(), expected);
        let digits = text.strip_prefix('+').unwrap_or(&text);
        match parse_weight(&text) {
            Ok(Weight(None)) => prop_assert_eq!(text, "reset"),
            Ok(Weight(Some(weight))) => {
                let significant = digits.trim_start_matches('0');
                let written = weight.to_string();
                prop_assert_eq!(significant, if weight == 0 { "" } else { &written });
            }
            Err(_) => {
                let is_one = digits.parse().is_ok_and(|number: u32| number <= 65_535);
                prop_assert!(text != "reset" && !is_one, "{}", text);
            }
        }
    }

    #[test]
    fn a_client_is_an_address_or_refused_by_its_text(text in "[0-9a-f:.\\[\\]]{0,24}|\\PC{0,10}") {
        match client_address(&text) {
            Ok(address) => {
                let is_bare = text.parse() == Ok(address.ip());
                prop_assert!(is_bare || text.parse() == Ok(address), "{}: {}", text, address);
            }
            Err(message) => prop_assert!(message.contains(&text), "{}", message),
        }
    }
}
