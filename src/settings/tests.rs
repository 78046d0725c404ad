use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{keys::KEYS, *};
use crate::{
    backend::{AgentDelivery, Driver, Token},
    tool::Isolation,
};

fn sources() -> Sources {
    let machine = Machine {
        root: false,
        host_name: "node-1".into(),
        home: Some("/home/ada".into()),
        xdg_state_home: None,
        working_directory: "/srv".into(),
        processors: 8,
    };
    Sources { machine, ..Sources::default() }
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let environment = variables.iter().map(|(name, value)| (format!("TOOL_EXECUTOR_{name}"), value.to_string()));
    Sources { environment: environment.collect(), ..sources() }
}

fn file(text: &str) -> Sources {
    Sources { file: Some(FileSource { path: "tool-executor.toml".into(), text: text.into() }), ..sources() }
}

fn flags(set: &[&str]) -> ServeFlags {
    ServeFlags { set: set.iter().map(ToString::to_string).collect(), ..ServeFlags::default() }
}

fn settings(sources: &Sources) -> Settings {
    load(sources).unwrap_or_else(|mistakes| panic!("{mistakes}")).settings
}

fn mistakes(sources: &Sources) -> Vec<(String, String)> {
    let mistakes = load(sources).expect_err("there are mistakes").0;
    mistakes.into_iter().map(|mistake| (mistake.source, mistake.message)).collect()
}

fn only_mistake(sources: &Sources) -> (String, String) {
    let mut mistakes = mistakes(sources);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes.remove(0)
}

#[test]
fn nothing_need_be_set() {
    let settings = settings(&sources());
    assert_eq!(settings.listen, SocketAddr::from(([127, 0, 0, 1], 9001)));
    assert_eq!(
        (settings.pools[0].slots, settings.pools[0].min_containers, settings.pools[0].max_containers),
        (10, 1, 10)
    );
    assert_eq!(settings.pools[0].acquire_timeout, Duration::from_secs(30));
    assert_eq!(settings.link.batch_window, Duration::from_millis(20));
    assert_eq!(settings.calls.max_timeout, Duration::from_secs(3_600));
    assert_eq!(settings.state_dir.to_str(), Some("/home/ada/.local/state/tool-executor"));
    assert_eq!(settings.executor_id, "node-1");
    assert_eq!(settings.worker_threads, 4);
    assert_eq!(settings.tools.enabled, ["full"]);
    assert!(!settings.sandbox.network);
    assert_eq!(settings.sandbox.isolation_minimum, Isolation::L1B);
}

#[test]
fn the_least_isolation_is_a_level_by_its_name() {
    let least = |text| settings(&environment(&[("ISOLATION_MINIMUM", text)])).sandbox.isolation_minimum;
    assert_eq!((least("L0"), least("l1B"), least("L2-")), (Isolation::L0, Isolation::L1B, Isolation::L2Minus));
    assert_eq!(settings(&file("isolation_minimum = \"L2\"")).sandbox.isolation_minimum, Isolation::L2);
    let told = only_mistake(&environment(&[("ISOLATION_MINIMUM", "some")]));
    assert_eq!(
        told,
        ("TOOL_EXECUTOR_ISOLATION_MINIMUM".into(), "must be L0, L1, L1b, L2 or L2-, and is \"some\"".into())
    );
}

/// A key that nobody reads would be accepted and ignored.
#[test]
fn every_key_is_read_and_every_read_has_a_key() {
    let merged = layers::merge(&sources(), &mut vec![], &mut vec![]);
    let mut reader = reader::Reader::new(&merged, vec![]);
    let settings = model::build(&mut reader, &sources().machine);
    let read = reader.asked.clone();
    rules::check(settings, reader, &mut vec![]);
    assert_eq!(read, KEYS.iter().map(|key| key.path).collect());
}

#[test]
fn the_later_source_wins() {
    let mut all =
        file("slots = 2\nmin_containers = 2\nmax_containers = 12\nmax_starting = 3\n[log]\nformat = \"json\"");
    let first = settings(&all);
    assert_eq!((first.pools[0].slots, first.pools[0].max_containers, first.log.format), (2, 12, LogFormat::Json));
    all.dotenv = Some("TOOL_EXECUTOR_SLOTS=3 # three\nexport TOOL_EXECUTOR_MIN_CONTAINERS='3'\n".into());
    all.environment = environment(&[("SLOTS", "4"), ("MAX_CONTAINERS", "14")]).environment;
    all.flags = flags(&["max_containers=15", "log.format=text"]);
    all.flags.listen = Some("localhost:0".into());
    let last = settings(&all);
    assert_eq!((last.pools[0].slots, last.pools[0].min_containers, last.pools[0].max_containers), (4, 3, 15));
    assert_eq!((last.pools[0].max_starting, last.log.format), (3, LogFormat::Text));
    assert_eq!(last.listen, SocketAddr::from(([127, 0, 0, 1], 0)));
}

#[test]
fn the_old_systems_names_keep_their_meaning() {
    let settings = settings(&environment(&[
        ("NOMAD_ADDRESS", "http://localhost:4646"),
        ("JOB_ID", "job"),
        ("IMAGE", "image:1"),
        ("SLOTS", "5"),
        ("MIN_CONTAINERS", "2"),
        ("MAX_CONTAINERS", "3"),
        ("PRIVILEGED", "yes"),
        ("ACQUIRE_TIMEOUT_S", "2.5"),
        ("BATCH_WINDOW_MS", "0"),
        ("MAX_BATCH_SIZE", "7"),
        ("ALLOW_NETWORK", "on"),
        ("TOOL_SERVER_URL", "http://tools"),
        ("TOOL_SERVER_TOKEN", "t1"),
        ("TOKEN", "t2"),
        ("PURGE_JOB_ON_SHUTDOWN", "0"),
    ]));
    let (nomad, container) = (settings.nomad.as_ref().expect("it is Nomad's"), &settings.pools[0].container);
    assert_eq!((nomad.client.address.to_string().as_str(), nomad.job_id.as_str()), ("http://localhost:4646", "job"));
    assert_eq!((container.image.as_str(), container.driver), ("image:1", Driver::Docker));
    assert_eq!(
        (settings.pools[0].slots, settings.pools[0].min_containers, settings.pools[0].max_containers),
        (5, 2, 3)
    );
    assert!(container.privileged && !nomad.purge_job_on_shutdown && settings.sandbox.network);
    assert_eq!(settings.pools[0].acquire_timeout, Duration::from_millis(2_500));
    assert_eq!((settings.link.batch_window, settings.link.max_batch_size), (Duration::ZERO, 7));
    assert_eq!(settings.tool_server.url.as_deref(), Some("http://tools"));
    assert_eq!(settings.tool_server.token.as_ref().map(Secret::reveal), Some("t1"));
    assert_eq!((settings.tool_server.max_calls, settings.tool_server.max_calls_per_source), (256, 128));
    assert_eq!(settings.token.as_ref().map(Secret::reveal), Some("t2"));
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let mut all = file("slot = 3\nmax_batch_size = \"many\"\n[sandbox]\nread_onli = []\n[nonsense]\na = 1");
    all.environment = environment(&[
        ("SLOTS", "0"),
        ("MIN_CONTAINERS", "5"),
        ("MAX_CONTAINERS", "2"),
        ("ACQUIRE_TIMEOUT_S", "-1"),
        ("LISTEN", "0.0.0.0:9001"),
        ("ALLOW_NETWORK", "true"),
        ("NOMAD_ADDRESS", "localhost:4646"),
    ])
    .environment;
    all.flags = flags(&["leese=1h", "lease", "lease=soon"]);
    all.dotenv = Some("TOOL_EXECUTOR_ENABLED_TOOLSETS=browser\n".into());
    let told = mistakes(&all);
    let expected = [
        ("tool-executor.toml: slot", "perhaps slots is meant"),
        ("tool-executor.toml: max_batch_size", "must be a whole number, and is \"many\""),
        ("tool-executor.toml: sandbox.read_onli", "perhaps sandbox.read_only is meant"),
        ("tool-executor.toml: nonsense", "there is no such setting"),
        ("TOOL_EXECUTOR_SLOTS", "must be between 1 and 10000, and is 0"),
        ("TOOL_EXECUTOR_MIN_CONTAINERS, TOOL_EXECUTOR_MAX_CONTAINERS", "must not be more than"),
        ("TOOL_EXECUTOR_ACQUIRE_TIMEOUT_S", "must be a number of seconds"),
        ("TOOL_EXECUTOR_LISTEN", "insecure_listen"),
        ("TOOL_EXECUTOR_ALLOW_NETWORK", "needs a token"),
        ("TOOL_EXECUTOR_NOMAD_ADDRESS", "must start with http://"),
        ("--set leese", "perhaps lease is meant"),
        ("--set lease", "must be NAME=VALUE"),
        ("--set lease", "must be a duration"),
        (".env: TOOL_EXECUTOR_ENABLED_TOOLSETS", "there is no toolset \"browser\""),
    ];
    for (source, message) in expected {
        assert!(
            told.iter().any(|(place, text)| place == source && text.contains(message)),
            "{source}: {message} is missing in {told:#?}"
        );
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    let text = Mistakes(load(&all).unwrap_err().0).to_string();
    assert!(text.starts_with("there are 14 mistakes in the settings:\n  "), "{text}");
}

#[test]
fn what_is_wrong_by_itself_is_not_compared() {
    let told = only_mistake(&environment(&[("MIN_CONTAINERS", "many"), ("MAX_CONTAINERS", "2")]));
    assert_eq!(told.0, "TOOL_EXECUTOR_MIN_CONTAINERS");
    let told = only_mistake(&environment(&[("TOKEN", "two words"), ("LISTEN", "0.0.0.0:1"), ("ALLOW_NETWORK", "1")]));
    assert_eq!(told.0, "TOOL_EXECUTOR_TOKEN");
    assert!(!told.1.contains("two words"));
}

#[test]
fn a_contradiction_with_a_default_names_it() {
    let told = only_mistake(&environment(&[("MIN_CONTAINERS", "11")]));
    assert_eq!(told.0, "TOOL_EXECUTOR_MIN_CONTAINERS, max_containers (default)");
    let told = only_mistake(&environment(&[("UID_BASE", "4294967290")]));
    assert!(told.1.contains("user ids"));
}

#[test]
fn the_network_needs_a_token() {
    let network =
        |variables: &[(&str, &str)]| load(&environment(variables)).map(|loaded| loaded.settings.sandbox.network);
    assert_eq!(network(&[]), Ok(false));
    assert_eq!(network(&[("TOKEN", "t")]), Ok(true));
    assert_eq!(network(&[("TOKENS_FILE", "tokens.toml")]), Ok(true));
    assert_eq!(network(&[("TOKEN", "t"), ("ALLOW_NETWORK", "false")]), Ok(false));
    assert_eq!(network(&[("TOKEN", "t"), ("ALLOW_NETWORK", "true")]), Ok(true));
    assert_eq!(network(&[("ALLOW_NETWORK", "off")]), Ok(false));
    assert!(network(&[("ALLOW_NETWORK", "true")]).is_err());
    assert!(load(&environment(&[])).unwrap().warnings[0].contains("no network"));
    assert!(load(&environment(&[("ALLOW_NETWORK", "off")])).unwrap().warnings.is_empty());
}

#[test]
fn listening_beyond_loopback_is_on_purpose() {
    let listen = |more: &[(&str, &str)]| {
        load(&environment(&[&[("LISTEN", "0.0.0.0:9001"), ("ALLOW_NETWORK", "no")], more].concat())).is_ok()
    };
    assert!(!listen(&[]));
    assert!(listen(&[("TOKEN", "t")]));
    assert!(listen(&[("TOKENS_FILE", "tokens.toml")]));
    assert!(listen(&[("INSECURE_LISTEN", "true")]));
    assert!(load(&environment(&[("LISTEN", "[::1]:9001")])).is_ok());
}

#[test]
fn a_certificate_and_its_key_go_together() {
    let tls = |variables: &[(&str, &str)]| load(&environment(variables)).map(|loaded| loaded.settings.connections.tls);
    assert_eq!(tls(&[]), Ok(None));
    let (pair, ca) = ([("TLS_CERTIFICATE", "crt"), ("TLS_KEY", "key")], ("TLS_CLIENT_CA", "ca"));
    let server = TlsSettings {
        certificate: "crt".into(),
        key: "key".into(),
        client_ca: None,
        client_auth: ClientAuth::Required,
    };
    assert_eq!(tls(&pair), Ok(Some(server.clone())));
    let mutual = TlsSettings { client_ca: Some("ca".into()), ..server };
    assert_eq!(tls(&[&pair[..], &[ca]].concat()), Ok(Some(mutual)));
    for half in [&pair[..1], &pair[1..], &[ca]] {
        assert!(tls(half).is_err(), "{half:?}");
    }
    let told = only_mistake(&environment(&[pair[0], pair[1], ca, ("TLS_CLIENT_AUTH", "optional")]));
    assert!(told.1.contains("need a token"), "{told:?}");
    let optional = [pair[0], pair[1], ca, ("TLS_CLIENT_AUTH", "optional"), ("TOKEN", "t")];
    assert!(tls(&optional).is_ok());
    assert!(tls(&[("TLS_CLIENT_AUTH", "perhaps")]).is_err());
}

#[test]
fn mutual_tls_is_as_good_as_a_token() {
    let exposed = |more: &[(&str, &str)]| {
        let common = [("LISTEN", "0.0.0.0:9001"), ("TLS_CERTIFICATE", "crt"), ("TLS_KEY", "key")];
        load(&environment(&[&common, more].concat())).map(|loaded| loaded.settings.sandbox.network)
    };
    assert!(exposed(&[]).is_err(), "a certificate of the server's says nothing of its clients");
    assert_eq!(exposed(&[("TLS_CLIENT_CA", "ca")]), Ok(true));
    assert_eq!(exposed(&[("TLS_CLIENT_CA", "ca"), ("ALLOW_NETWORK", "true")]), Ok(true));
    assert!(exposed(&[("TLS_CLIENT_CA", "ca"), ("TLS_CLIENT_AUTH", "optional")]).is_err());
    // Nodes of a cluster have no certificate to show.
    let nomad = [("TLS_CLIENT_CA", "ca"), ("NOMAD_ADDRESS", "http://localhost:4646")];
    assert!(exposed(&nomad).is_err());
    assert!(exposed(&[&nomad[..], &[("AGENT", "present")]].concat()).is_ok());
    assert!(exposed(&[&nomad[..], &[("TLS_CLIENT_AUTH", "optional"), ("TOKEN", "t")]].concat()).is_ok());
}

#[test]
fn empty_variables_count_as_unset_and_unknown_ones_are_warned_of() {
    let mut all = environment(&[
        ("SLOTS", ""),
        ("TOKEN", " "),
        ("SLOT", "3"),
        ("PORT_9001_TCP", "x"),
        ("ALLOW_NETWORK", "0"),
        ("ADDRESS", "127.0.0.1:9001"),
        ("ADDRESSES", "none is like it"),
    ]);
    all.dotenv = Some("TOOL_EXECUTOR_SLOTS=6\nOTHER=1\n".into());
    let loaded = load(&all).unwrap();
    assert_eq!(loaded.settings.pools[0].slots, 6);
    assert_eq!(loaded.settings.token, None);
    assert_eq!(
        loaded.warnings,
        [
            "TOOL_EXECUTOR_ADDRESSES is not a setting",
            "TOOL_EXECUTOR_PORT_9001_TCP is not a setting",
            "TOOL_EXECUTOR_SLOT is not a setting; perhaps TOOL_EXECUTOR_SLOTS is meant",
        ]
    );
}

#[test]
fn two_names_of_one_setting_are_not_both_set() {
    let told = only_mistake(&environment(&[("ACQUIRE_TIMEOUT", "5s"), ("ACQUIRE_TIMEOUT_S", "6")]));
    assert_eq!(told.0, "TOOL_EXECUTOR_ACQUIRE_TIMEOUT_S");
    // In different sources, the later wins as ever.
    let mut all = environment(&[("ACQUIRE_TIMEOUT_S", "6")]);
    all.dotenv = Some("TOOL_EXECUTOR_ACQUIRE_TIMEOUT=5s".into());
    assert_eq!(settings(&all).pools[0].acquire_timeout, Duration::from_secs(6));
}

#[test]
fn the_file_has_types_of_its_own() {
    let settings = settings(&file(
        "listen = \"127.0.0.1:1\"\nspread = true\nmax_request_bytes = 2097152\nlease = \"1h\"\n\
         disabled_toolsets = [\"filesystem\", \"terminal\"]\n[sandbox]\nread_only = [\"/data\"]\ntmp_size = \"1GiB\"",
    ));
    assert!(settings.pools[0].spread);
    assert_eq!((settings.limits.max_request_bytes, settings.sandbox.tmp_bytes), (2_097_152, 1 << 30));
    assert_eq!(settings.tools.disabled, ["filesystem", "terminal"]);
    assert_eq!(settings.sandbox.read_only, [std::path::PathBuf::from("/data")]);

    assert!(only_mistake(&file("slots = [1]")).1.contains("single value"));
    assert!(only_mistake(&file("slots = \"\"")).1.contains("whole number"));
    assert!(only_mistake(&file("slots = ")).1.contains("line 1"));
}

#[test]
fn a_bad_line_of_dotenv_does_not_show_its_secret() {
    let told = only_mistake(&Sources { dotenv: Some("A=1\nTOOL_EXECUTOR_TOKEN=s3cret word\n".into()), ..sources() });
    assert!(told.0 == ".env" && told.1.contains("after A") && !told.1.contains("s3cret"), "{told:?}");
}

#[test]
fn the_state_directory() {
    let of = |change: &dyn Fn(&mut Machine)| {
        let mut sources = sources();
        change(&mut sources.machine);
        load(&sources).map(|loaded| loaded.settings.state_dir.to_str().unwrap().to_owned())
    };
    assert_eq!(of(&|machine| machine.root = true), Ok("/var/lib/tool-executor".into()));
    assert_eq!(of(&|machine| machine.xdg_state_home = Some("/x".into())), Ok("/x/tool-executor".into()));
    assert!(of(&|machine| machine.home = None).unwrap_err().to_string().contains("state_dir"));
    let set = Sources { flags: ServeFlags { state_dir: Some("s".into()), ..ServeFlags::default() }, ..sources() };
    assert_eq!(settings(&set).state_dir.to_str(), Some("/srv/s"));
}

#[test]
fn secrets_are_never_shown() {
    let loaded = load(&environment(&[("TOKEN", "s3cret"), ("TOOL_SERVER_TOKEN", "s3cret"), ("SLOTS", "3")])).unwrap();
    let shown = render(&loaded);
    assert!(!format!("{loaded:?}{shown}").contains("s3cret"));
    let line =
        |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(line("token"), ["token", "=", "***", "(TOOL_EXECUTOR_TOKEN)"]);
    assert_eq!(line("slots"), ["slots", "=", "3", "(TOOL_EXECUTOR_SLOTS)"]);
    assert_eq!(line("max_containers"), ["max_containers", "=", "10", "(default)"]);
    assert_eq!(line("state_dir")[2], "/home/ada/.local/state/tool-executor");
    assert_eq!(line("allow_network"), ["allow_network", "=", "true", "(not", "set)"]);
    assert_eq!(shown.lines().count(), KEYS.len());
}

#[test]
fn log_filters_have_two_names() {
    let filter = |variables: &[(&str, &str)]| {
        let environment: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        settings(&Sources { environment, ..sources() }).log.filter
    };
    assert_eq!(filter(&[("RUST_LOG", "debug")]), "debug");
    assert_eq!(filter(&[("RUST_LOG", "debug"), ("TOOL_EXECUTOR_LOG", "trace")]), "trace");
    assert_eq!(filter(&[("RUST_LOG", "")]), "info");
    assert_eq!(only_mistake(&environment(&[("LOG", "a=loud")])).0, "TOOL_EXECUTOR_LOG");
}

#[test]
fn nomad_is_found_as_its_own_command_line_finds_it() {
    let variables = [
        ("NOMAD_ADDR", "https://nomad:4646"),
        ("NOMAD_TOKEN", "t"),
        ("NOMAD_NAMESPACE", "agents"),
        ("NOMAD_REGION", "eu"),
        ("NOMAD_CACERT", "/ca.pem"),
        ("NOMAD_CAPATH", "/ca"),
        ("NOMAD_CLIENT_CERT", "/c.pem"),
        ("NOMAD_CLIENT_KEY", "/k.pem"),
        ("NOMAD_TLS_SERVER_NAME", "server.global.nomad"),
        ("NOMAD_SKIP_VERIFY", "true"),
        ("NOMAD_HTTP_AUTH", "user:password"),
    ];
    let environment: BTreeMap<_, _> =
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let of = |sources: &Sources| settings(sources).nomad.expect("it is Nomad's").client;
    let nomad = of(&Sources { environment: environment.clone(), ..sources() });
    assert_eq!(nomad.address.to_string(), "https://nomad:4646");
    assert_eq!((nomad.token.as_ref().map(Token::reveal), nomad.namespace.as_deref()), (Some("t"), Some("agents")));
    assert_eq!((nomad.region.as_deref(), nomad.tls_server_name.as_deref()), (Some("eu"), Some("server.global.nomad")));
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().and_then(|path| path.to_str()).map(str::to_owned);
    let paths = [&nomad.ca_cert, &nomad.ca_path, &nomad.client_cert, &nomad.client_key].map(path);
    assert_eq!(paths.map(Option::unwrap), ["/ca.pem", "/ca", "/c.pem", "/k.pem"]);
    let auth = nomad.http_auth.as_ref().expect("it is set");
    assert!(nomad.skip_verify && (auth.user.as_str(), auth.password.reveal()) == ("user", "password"));

    let mut ours = environment.clone();
    ours.insert("TOOL_EXECUTOR_NOMAD_ADDRESS".into(), "unix:///run/nomad.sock".into());
    assert_eq!(of(&Sources { environment: ours, ..sources() }).address.to_string(), "unix:///run/nomad.sock");
    let dotenv = "NOMAD_ADDR=http://elsewhere:1\n".to_owned();
    assert_eq!(of(&Sources { dotenv: Some(dotenv), ..sources() }).address.to_string(), "http://elsewhere:1");
    assert!(settings(&sources()).nomad.is_none(), "without an address, containers are here");

    let mut half = environment;
    half.remove("NOMAD_CLIENT_KEY");
    assert!(only_mistake(&Sources { environment: half, ..sources() }).1.contains("go together"));
}

#[test]
fn a_pool_has_what_it_says_and_else_what_the_default_pool_has() {
    let mut all = file(
        "slots = 4\nimage = \"common\"\n[pools.swe]\nimage = \"swe:1\"\nworkspace_source = \"/testbed\"\n\
         root = \"overlay\"\nmin_containers = 0\nconstraints = [\"${attr.cpu.arch} = amd64\"]\n\
         driver_config = { runtime = \"runsc\", ulimit = { nofile = \"1:2\" } }\n[pools.raw]\ndriver = \"raw_exec\"\n\
         agent = \"present\"\nagent_path = \"/usr/bin/tool-executor\"\ndatacenters = \"a, b\"",
    );
    all.environment = environment(&[("MAX_CONTAINERS", "3"), ("NOMAD_ADDRESS", "http://nomad:4646")]).environment;
    let settings = settings(&all);
    let [default, raw, swe] = settings.pools.as_slice() else { panic!("{:?}", settings.pools) };
    assert_eq!((default.name.as_str(), raw.name.as_str(), swe.name.as_str()), ("", "raw", "swe"));
    assert_eq!((default.container.image.as_str(), swe.container.image.as_str()), ("common", "swe:1"));
    assert_eq!((swe.slots, swe.min_containers, swe.max_containers), (4, 0, 3));
    assert_eq!(swe.workspace_source.as_deref(), Some(std::path::Path::new("/testbed")));
    assert!(swe.writable_root && !default.writable_root);
    assert!(swe.sees_image(true) && !raw.sees_image(true) && !swe.sees_image(false));
    let constraint = ("${attr.cpu.arch}", "=", "amd64");
    let [only] = swe.container.constraints.as_slice() else { panic!("{:?}", swe.container.constraints) };
    assert_eq!((only.attribute.as_str(), only.operator.as_str(), only.value.as_str()), constraint);
    assert_eq!(swe.container.driver_config["ulimit"]["nofile"], "1:2");
    assert_eq!((raw.container.driver, raw.container.agent), (Driver::RawExec, AgentDelivery::Present));
    assert_eq!(raw.container.datacenters, ["a", "b"]);
}

#[test]
fn what_can_be_written_to_is_an_image() {
    let told = only_mistake(&file("[pools.x]\nroot = \"overlay\""));
    assert_eq!(told.0, "tool-executor.toml: pools.x.root, view (not set)");
    assert!(load(&file("[pools.x]\nroot = \"overlay\"\nview = \"image\"")).is_ok());
}

#[test]
fn mistakes_of_pools_are_told_with_their_place() {
    let told = mistakes(&file(
        "slots = 0\n[pools.\"a b\"]\n[pools.x]\nslotz = 3\nlease = \"1h\"\nmin_containers = 11\ndriver = \"lxc\"\n\
         driver_config = \"{\"",
    ));
    let expected = [
        ("tool-executor.toml: pools.a b", "a pool's name"),
        ("tool-executor.toml: pools.x.slotz", "perhaps slots is meant"),
        ("tool-executor.toml: pools.x.lease", "is the same for every pool"),
        ("tool-executor.toml: slots", "must be between 1"),
        ("tool-executor.toml: pools.x.min_containers, max_containers (default)", "must not be more than"),
        ("tool-executor.toml: pools.x.driver", "must be docker"),
        ("tool-executor.toml: pools.x.driver_config", "is not JSON"),
    ];
    for (source, message) in expected {
        assert!(told.iter().any(|(place, text)| place == source && text.contains(message)), "{source}: {told:#?}");
    }
    assert_eq!(told.len(), expected.len(), "what several pools share is told once: {told:#?}");
}

proptest::proptest! {
    #[test]
    fn no_value_crashes_it(key in 0..KEYS.len(), value in "[0-9a-z. ,:/_-]{0,12}|\\PC{0,12}", place in 0..4) {
        let key = &KEYS[key];
        let mut all = sources();
        match place {
            0 => all.file = Some(FileSource { path: "f".into(), text: format!("{} = {value}", key.path) }),
            1 => all.dotenv = Some(format!("{}={value}", key.variable())),
            2 => _ = all.environment.insert(key.number_variable().unwrap_or(key.variable()), value),
            _ => all.flags.set = vec![format!("{}={value}", key.path)],
        }
        if let Ok(loaded) = load(&all) {
            render(&loaded);
        }
    }
}

#[test]
fn mcp_servers_have_names_and_tokens_of_their_own() {
    let servers = "search=https://search/mcp/, files = http://files:8000/mcp";
    let given = [("MCP_SERVERS", servers), ("MCP_TOKENS", "files=s3cret=")];
    let loaded = load(&environment(&given)).unwrap();
    let [search, files] = &loaded.settings.tool_server.mcp[..] else { panic!("there are two") };
    assert_eq!((&*search.name, &*search.url, search.token.is_some()), ("search", "https://search/mcp", false));
    assert_eq!((&*files.name, &*files.url), ("files", "http://files:8000/mcp"));
    assert_eq!(files.token.as_ref().map(Secret::reveal), Some("s3cret="));
    let shown = format!("{loaded:?}{}", render(&loaded));
    assert!(!shown.contains("s3cret"), "{shown}");
    for (servers, tokens, mistake) in [
        ("http://search", "", "must have servers such as"),
        ("search=files", "", "must be an address"),
        ("tool_server=http://a", "", "another's"),
        ("a=http://a,a=http://b", "", "another's"),
        ("a=http://a", "b=s3cret", "no MCP server b"),
        ("a=http://a", "a=s3cret,a=s3cret", "two tokens"),
        ("a=http://a", "s3cret", "NAME=TOKEN"),
    ] {
        let mistakes = load(&environment(&[("MCP_SERVERS", servers), ("MCP_TOKENS", tokens)])).unwrap_err().to_string();
        assert!(mistakes.contains(mistake) && !mistakes.contains("s3cret"), "{mistakes}");
    }
}

#[test]
fn what_needs_no_token() {
    let open = |variables: &[(&str, &str)]| settings(&environment(variables)).access.open.to_string();
    assert_eq!(open(&[]), "health,status");
    assert_eq!(open(&[("TOKENS_FILE", "tokens.toml")]), "health");
    assert_eq!(open(&[("TOKENS_FILE", "tokens.toml"), ("OPEN_ENDPOINTS", "metrics, status")]), "status,metrics");
    assert_eq!(open(&[("OPEN_ENDPOINTS", "none")]), "none");
    assert_eq!(open(&[("OPEN_ENDPOINTS", " ")]), "health,status");
    assert!(only_mistake(&environment(&[("OPEN_ENDPOINTS", "health,docs")])).1.contains("has \"docs\""));
    let asks = |variables: &[(&str, &str)]| settings(&environment(variables)).asks_callers();
    assert_eq!((asks(&[]), asks(&[("TOKEN", "t")]), asks(&[("TOKENS_FILE", "t")])), (false, true, true));
}
