//! The command line: a change of it is a conscious one, and the README tells all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};
use steelyard::cli::Cli;

use crate::readme::README;
use crate::server::steelyard;

/// Settings that the README lists and that are no arguments: libraries read them, or the built-in PostgreSQL does.
const ENVIRONMENT_ONLY: [&str; 3] = ["STEELYARD_PG_BIN_DIR", "RUST_LOG", "NO_COLOR"];

/// Options that every command has, of which the README speaks below its table of commands.
const OF_EVERY_COMMAND: [&str; 3] = ["--help", "--json", "--version"];

/// Asked of the program itself, without a terminal, so that lines break where they do for a reader of a pipe.
#[test]
fn help_of_every_command() {
    let mut text = String::new();
    for path in commands() {
        let output = steelyard().args(&path).arg("--help").output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{path:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        let words = ["steelyard"].into_iter().chain(path.iter().map(String::as_str));
        writeln!(text, "$ {} --help\n{help}", words.collect::<Vec<_>>().join(" ")).unwrap();
    }
    // Whatever the release is called.
    insta::assert_snapshot!("help", text.replace(env!("CARGO_PKG_VERSION"), "<version>"));
}

/// A data directory that was misspelt is not verified, and no database is made there.
#[test]
fn commands_that_need_a_database_make_none() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("misspelt");
    let key = "00000000-0000-7000-8000-000000000000";
    let commands: [&[&str]; 6] = [
        &["verify"],
        &["--json", "verify"],
        &["rebuild"],
        &["psql", "--print"],
        &["keys", "list"],
        &["keys", "revoke", key],
    ];
    for command in commands {
        let output = steelyard().args(command).arg("--data-dir").arg(&missing).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{command:?}: {said}");
        assert!(said.contains(missing.to_str().unwrap()) && said.contains("--data-dir"), "{command:?}: {said}");
        assert!(!missing.exists(), "{command:?}");
    }
}

/// Each setting of `serve`, with its name in the environment and its default, and nothing that is not one.
#[test]
fn the_readme_has_every_setting_of_the_server() {
    let (told, environment_only): (Vec<_>, Vec<_>) =
        table("| argument | environment | default | what |").into_iter().partition(|row| !row[0].is_empty());
    let told: BTreeMap<String, Vec<String>> = told.into_iter().map(|row| (row[0].clone(), row)).collect();
    let mut root = built();
    let serve = root.find_subcommand_mut("serve").unwrap();
    let settings: BTreeMap<String, &Arg> = options(serve).collect();
    assert_eq!(told.keys().collect::<Vec<_>>(), settings.keys().collect::<Vec<_>>());
    for (name, argument) in settings {
        let row = &told[&name];
        assert_eq!(row[1], environment_of(argument), "{name}");
        let defaults: Vec<_> = argument.get_default_values().iter().filter_map(|value| value.to_str()).collect();
        let default = match defaults.as_slice() {
            // It is found out when the program runs, or it is a switch: words say so.
            [] | ["false"] => continue,
            // Numbers stand in words, with commas between thousands.
            [number] if number.parse::<u64>().is_ok() => {
                assert_eq!(row[2].replace(',', ""), *number, "{name}");
                continue;
            }
            values => values.join(","),
        };
        assert_eq!(row[2], default, "{name}");
    }
    let environment_only: Vec<&str> = environment_only.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(environment_only, ENVIRONMENT_ONLY);
}

/// What all clients take is a paragraph and not a table.
#[test]
fn the_readme_has_every_setting_of_a_client() {
    let line = README.lines().find(|line| line.contains(" are clients: ")).expect("there is such a paragraph");
    let mut root = built();
    let settings: Vec<_> = options(root.find_subcommand_mut("cluster").unwrap()).collect();
    for (name, argument) in &settings {
        let environment = environment_of(argument);
        let default = argument.get_default_values().first().and_then(|value| value.to_str());
        let told = default.map_or_else(
            || format!("`{name}` (`{environment}`"),
            |default| format!("`{name}` (`{environment}`, `{default}`)"),
        );
        assert!(line.contains(&told), "{told} is not in: {line}");
    }
    assert_eq!(line.matches("`--").count(), settings.len(), "{line}");
    for command in root.get_subcommands().filter(|command| has_url(command)) {
        assert!(line.contains(&format!("`{}`", command.get_name())), "{} is not in: {line}", command.get_name());
    }
}

#[test]
fn the_readme_has_every_command() {
    let told: Vec<String> = table("| command | what |").into_iter().map(|row| row[0].clone()).collect();
    let root = built();
    let expected: BTreeSet<String> = root
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .map(|command| {
            let below: Vec<&str> = command.get_subcommands().map(Command::get_name).filter(|n| *n != "help").collect();
            format!("steelyard {} {}", command.get_name(), below.join(", ")).trim_end().to_owned()
        })
        .collect();
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// The command line, complete: with what every command has.
fn built() -> Command {
    let mut root = Cli::command();
    root.build();
    root
}

/// The words of every command, the program itself first, as its help lists them.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &Command, path: &[String], paths: &mut Vec<Vec<String>>) {
        paths.push(path.to_vec());
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            below(command, &[path, &[command.get_name().to_owned()]].concat(), paths);
        }
    }
    let mut paths = Vec::new();
    below(&built(), &[], &mut paths);
    paths
}

/// The options of one command, those apart that every command has.
fn options(command: &Command) -> impl Iterator<Item = (String, &Arg)> {
    let named = |argument| Some((format!("--{}", Arg::get_long(argument)?), argument));
    command.get_arguments().filter_map(named).filter(|(name, _)| !OF_EVERY_COMMAND.contains(&name.as_str()))
}

fn environment_of(argument: &Arg) -> &str {
    argument.get_env().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Whether the command, or one below it, talks to a server.
fn has_url(command: &Command) -> bool {
    options(command).any(|(name, _)| name == "--url") || command.get_subcommands().any(has_url)
}

/// The rows of a table of the README, without the marks of code.
fn table(header: &str) -> Vec<Vec<String>> {
    let rows = README.lines().skip_while(|line| *line != header).skip(2).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    let rows: Vec<Vec<String>> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "the README has no table {header}");
    rows
}
