//! What a node was told: the file of `--config` first, the command line over it.

use std::path::{Path, PathBuf};

use quorate::{QuorumConfig, TlsConfig};
use quorate_admin::AccessConfig;
use serde::Deserialize;

use crate::args::NodeArgs;
use crate::failure::Failure;
use crate::hostport::HostPort;

/// The settings of one node, complete and checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// For the quorum: directory, peers, sessions, loop.
    pub(crate) quorum: QuorumConfig,
    /// Where the admin API listens.
    pub(crate) admin: HostPort,
    /// Who may change something there, and how it is encrypted.
    pub(crate) access: AccessConfig,
    /// What the broker registers as its address, when it is not the one it listens on.
    pub(crate) advertise: Option<HostPort>,
    /// Whether this node registers a broker.
    pub(crate) broker: bool,
}

/// The file of `--config`; a key that is not here is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SettingsFile {
    /// As `--data-dir`.
    data_dir: Option<PathBuf>,
    /// As `--listen`.
    listen: Option<String>,
    /// As `--admin`.
    admin: Option<String>,
    /// As `--advertise`.
    advertise: Option<String>,
    /// As `--no-broker`.
    no_broker: bool,
    /// As `--tls-cert`.
    tls_cert: Option<PathBuf>,
    /// As `--tls-key`.
    tls_key: Option<PathBuf>,
    /// As `--tls-ca`.
    tls_ca: Option<PathBuf>,
    /// As `--admin-tls-cert`.
    admin_tls_cert: Option<PathBuf>,
    /// As `--admin-tls-key`.
    admin_tls_key: Option<PathBuf>,
    /// As `--admin-tls-client-ca`.
    admin_tls_client_ca: Option<PathBuf>,
    /// As `--admin-token-file`.
    admin_token_file: Option<PathBuf>,
    /// As `--heartbeat-ms`.
    heartbeat_ms: Option<u64>,
    /// As `--session-ms`.
    session_ms: Option<u64>,
    /// Milliseconds that an operation may take; default 10,000.
    operation_timeout_ms: Option<u64>,
    /// Milliseconds between two looks of the leading node at partitions that nobody leads; default
    /// 5,000.
    upkeep_ms: Option<u64>,
    /// Milliseconds between two runs that give partitions back to their preferred leaders; default
    /// 300,000, 0 never.
    balance_ms: Option<u64>,
    /// The settings of the ready loop, as the library documents them.
    #[serde(rename = "loop")]
    group: Option<toml::Table>,
    /// The settings of the log on disk, as the library documents them.
    engine: Option<toml::Table>,
}

impl Settings {
    /// Puts both sources together, and reports everything that is wrong with them at once.
    pub(crate) fn of(args: &NodeArgs) -> Result<Settings, Failure> {
        let file = match &args.config {
            Some(path) => SettingsFile::read(path)?,
            None => SettingsFile::default(),
        };
        let data_dir =
            args.data_dir.clone().or(file.data_dir).ok_or_else(|| missing("data-dir"))?;
        let listen = address("listen", &args.listen, file.listen.as_deref())?
            .ok_or_else(|| missing("listen"))?;
        let admin = address("admin", &args.admin, file.admin.as_deref())?
            .ok_or_else(|| missing("admin"))?;
        let advertise = address("advertise", &args.advertise, file.advertise.as_deref())?;
        if let Some(advertise) = advertise.as_ref().filter(|addr| addr.port() == 0) {
            return Err(Failure::Usage(format!(
                "--advertise {advertise} has port 0: name the port that others can reach"
            )));
        }
        let listen = listen.resolve().map_err(|e| Failure::Failed(e.to_string()))?;
        let mut quorum = QuorumConfig::new(data_dir, listen);
        let given = [
            (args.heartbeat_ms.or(file.heartbeat_ms), &mut quorum.heartbeat_ms),
            (args.session_ms.or(file.session_ms), &mut quorum.session_ms),
            (file.operation_timeout_ms, &mut quorum.operation_timeout_ms),
            (file.upkeep_ms, &mut quorum.upkeep_ms),
            (file.balance_ms, &mut quorum.balance_ms),
        ];
        for (given, setting) in given {
            *setting = given.unwrap_or(*setting);
        }
        if let Some(group) = file.group {
            quorum.group = section("loop", group)?;
        }
        let cert = args.tls_cert.clone().or(file.tls_cert);
        let key = args.tls_key.clone().or(file.tls_key);
        let ca = args.tls_ca.clone().or(file.tls_ca);
        match (cert, key, ca) {
            (None, None, None) => {}
            (Some(cert), Some(key), Some(ca)) => {
                quorum.group.tls = Some(TlsConfig { cert, key, ca });
            }
            _ => {
                return Err(Failure::Usage(
                    "--tls-cert, --tls-key and --tls-ca go together: give all three".to_owned(),
                ));
            }
        }
        let access = AccessConfig {
            tls_cert: args.admin_tls_cert.clone().or(file.admin_tls_cert),
            tls_key: args.admin_tls_key.clone().or(file.admin_tls_key),
            tls_client_ca: args.admin_tls_client_ca.clone().or(file.admin_tls_client_ca),
            token_file: args.admin_token_file.clone().or(file.admin_token_file),
            host: Some(admin.host().to_owned()),
        };
        if let Some(engine) = file.engine {
            quorum.engine = section("engine", engine)?;
        }
        let faults = quorum.validate();
        if !faults.is_empty() {
            return Err(Failure::Usage(faults.join("; ")));
        }
        let broker = !(args.no_broker || file.no_broker);
        Ok(Settings { quorum, admin, access, advertise, broker })
    }
}

impl SettingsFile {
    fn read(path: &Path) -> Result<SettingsFile, Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| {
            Failure::Usage(format!("cannot read {shown}: {e}; name a TOML file with --config"))
        })?;
        toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or_else(String::new, |span| {
                let before = text.get(..span.start).unwrap_or(&text);
                format!(", line {}", before.matches('\n').count() + 1)
            });
            Failure::Usage(format!("{shown}{line}: {}", one_line(e.message())))
        })
    }
}

/// A table of the file as the library's own settings.
fn section<T: serde::de::DeserializeOwned>(name: &str, table: toml::Table) -> Result<T, Failure> {
    table.try_into().map_err(|e: toml::de::Error| {
        Failure::Usage(format!("[{name}] in the config file: {}", one_line(e.message())))
    })
}

fn missing(option: &str) -> Failure {
    let key = option.replace('-', "_");
    Failure::Usage(format!("--{option} is missing: give it, or {key} in the file of --config"))
}

/// The address from the command line, or else from the file.
fn address(
    option: &str,
    arg: &Option<HostPort>,
    file: Option<&str>,
) -> Result<Option<HostPort>, Failure> {
    match (arg, file) {
        (Some(addr), _) => Ok(Some(addr.clone())),
        (None, Some(text)) => text
            .parse()
            .map(Some)
            .map_err(|e| Failure::Usage(format!("{option} = {text:?} in the config file: {e}"))),
        (None, None) => Ok(None),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, CommandLine};

    fn settings(line: &str, file: Option<&str>) -> Result<Settings, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        let mut words: Vec<String> =
            format!("quorate node {line}").split_whitespace().map(str::to_owned).collect();
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
            words.extend(["--config".to_owned(), path.display().to_string()]);
        }
        match CommandLine::try_parse_from(words).unwrap().command {
            Command::Node(args) => Settings::of(&args),
            other => panic!("{other:?}"),
        }
    }

    fn usage_of(outcome: Result<Settings, Failure>) -> String {
        match outcome {
            Err(Failure::Usage(sentence)) => sentence,
            other => panic!("{other:?}"),
        }
    }

    const LINE: &str = "--data-dir d --listen 127.0.0.1:1 --admin 127.0.0.1:0";

    #[test]
    fn the_command_line_alone_is_enough() {
        let settings = settings(LINE, None).unwrap();
        assert_eq!((settings.quorum.heartbeat_ms, settings.quorum.session_ms), (500, 3000));
        assert!(settings.broker);
    }

    #[test]
    fn the_file_alone_is_enough_and_the_command_line_wins() {
        let file = r#"
            data_dir = "d"
            listen = "127.0.0.1:1"
            admin = "127.0.0.1:0"
            no_broker = true
            session_ms = 9000
            [loop]
            tick_ms = 50
            append_mode = "parallel"
        "#;
        let plain = settings("", Some(file)).unwrap();
        assert_eq!((plain.quorum.session_ms, plain.quorum.group.tick_ms), (9000, 50));
        assert_eq!(plain.quorum.group.append_mode, quorate::AppendMode::Parallel);
        assert!(!plain.broker);
        let over = settings("--session-ms 4000", Some(file)).unwrap();
        assert_eq!(over.quorum.session_ms, 4000);
    }

    /// To see it fail: take a key out of `SettingsFile`, or add a field to one of the configs.
    #[test]
    fn every_setting_of_the_library_can_be_given_in_the_file() {
        let mut wanted = QuorumConfig::new("d", "127.0.0.1:1".parse().unwrap());
        wanted.balance_ms = 0;
        let given = toml::Table::try_from(&wanted).unwrap();
        let read = |table: &toml::Table| {
            settings("", Some(&format!("admin = \"127.0.0.1:0\"\n{table}"))).map(|it| it.quorum)
        };
        assert_eq!(read(&given), Ok(wanted.clone()));
        // Each number with another value: none is read and then forgotten.
        let place = |table: &toml::Table, section: &str| match section {
            "" => table.clone(),
            section => table[section].as_table().unwrap().clone(),
        };
        let mut changed = 0;
        for section in ["", "loop", "engine"] {
            for (key, value) in &place(&given, section) {
                let Some(number) = value.as_integer() else { continue };
                let mut keys = place(&given, section);
                keys.insert(key.clone(), (number + 1).into());
                let mut table = given.clone();
                match section {
                    "" => table = keys,
                    section => drop(table.insert(section.to_owned(), keys.into())),
                }
                match read(&table) {
                    Ok(read) => assert_ne!(read, wanted, "{key}"),
                    // One more is out of its bounds: it was looked at, too.
                    Err(Failure::Usage(said)) => assert!(said.contains(key), "{key}: {said}"),
                    Err(other) => panic!("{key}: {other}"),
                }
                changed += 1;
            }
        }
        assert!(changed > 20, "{changed}");
    }

    #[test]
    fn certificates_come_from_either_source_and_go_together() {
        let file = "tls_cert = \"c\"\ntls_key = \"k\"\nadmin_token_file = \"t\"\n";
        let both = settings(&format!("{LINE} --tls-ca a --admin-tls-cert ac"), Some(file)).unwrap();
        let [cert, key, ca] = ["c", "k", "a"].map(PathBuf::from);
        assert_eq!(both.quorum.group.tls, Some(TlsConfig { cert, key, ca }));
        assert_eq!(both.access.tls_cert, Some("ac".into()));
        assert_eq!(both.access.token_file, Some("t".into()));
        let said = usage_of(settings(LINE, Some(file)));
        assert!(said.contains("--tls-ca go together"), "{said}");
        let loops = "[loop.tls]\ncert = \"c\"\nkey = \"k\"\nca = \"a\"\n";
        assert_eq!(settings(LINE, Some(loops)).unwrap().quorum.group.tls, both.quorum.group.tls);
        let said =
            usage_of(settings(LINE, Some(&format!("[loop]\nallow_plaintext = true\n{loops}"))));
        assert!(said.contains("allow_plaintext is set beside tls"), "{said}");
    }

    #[test]
    fn unknown_keys_are_errors_with_their_line() {
        let said = usage_of(settings(LINE, Some("session_ms = 3000\nsesion_ms = 1\n")));
        assert!(said.contains("line 2") && said.contains("sesion_ms"), "{said}");
        let said = usage_of(settings(LINE, Some("[loop]\ntick = 1\n")));
        assert!(said.contains("[loop]") && said.contains("tick"), "{said}");
        assert_eq!(said.lines().count(), 1);
    }

    #[test]
    fn what_is_missing_or_impossible_is_named() {
        for (line, file, sentence) in [
            ("--listen 127.0.0.1:1 --admin 127.0.0.1:1", None, "--data-dir is missing"),
            ("--data-dir d --admin 127.0.0.1:1", None, "--listen is missing"),
            ("--data-dir d --listen 127.0.0.1:1", None, "--admin is missing"),
            ("--data-dir d --listen 127.0.0.1:1", Some("admin = \"x\""), "admin = \"x\" in the"),
            ("--data-dir d --listen 127.0.0.1:1", Some("admin = "), "line 1"),
        ] {
            let said = usage_of(settings(line, file));
            assert!(said.contains(sentence), "{said}");
        }
        let said = usage_of(settings(&format!("{LINE} --heartbeat-ms 0 --session-ms 1"), None));
        assert!(said.contains("heartbeat_ms is 0"), "{said}");
        let said = usage_of(settings(&format!("{LINE} --advertise 127.0.0.1:0"), None));
        assert!(said.contains("--advertise 127.0.0.1:0 has port 0"), "{said}");
    }
}
