// SPDX-License-Identifier: GPL-2.0
//! The built command, and what has to keep in step with it: the man page, the completion of bash,
//! and the versions.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use xfrm_next::args::Args;
use xfrm_next::command::COMMANDS;
use xfrm_next::error::{FAILURE, REFUSED, SUCCESS, USAGE};
use xfrm_next::link::Links;
use xfrm_next::{allocspi, request};

const PROGRAM: &str = env!("CARGO_BIN_EXE_xfrm-next");
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn run(command: &mut Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(stdin.as_bytes()).unwrap();
    drop(pipe);
    child.wait_with_output().unwrap()
}

fn help() -> String {
    let output = run(Command::new(PROGRAM).arg("help"), "");
    String::from_utf8(output.stdout).unwrap()
}

fn is_keyword(word: &str) -> bool {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(lower)
}

/// The keywords of a grammar, after the name of the command.
fn keywords(grammar: &str, name: &str) -> BTreeSet<String> {
    let words = grammar.strip_prefix(name).unwrap().split_whitespace();
    words.filter(|w| is_keyword(w)).map(String::from).collect()
}

/// The options that the help text has as `-j[son]`, as `("j", "json")`.
fn options() -> BTreeSet<(String, String)> {
    let help = help();
    let split = |word: &str| {
        let (short, rest) = word.strip_prefix('-')?.split_once('[')?;
        Some((short.into(), format!("{short}{}", rest.strip_suffix(']')?)))
    };
    help.split_whitespace().filter_map(split).collect()
}

/// The numbers that follow "Exit status:".
fn statuses(text: &str) -> BTreeSet<u8> {
    let (_, list) = text.split_once("Exit status:").unwrap_or_default();
    let words = list.split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
}

/// The man page, with plain hyphens.
fn page() -> String {
    file("xfrm-next.8").replace("\\-", "-")
}

/// What stands below a heading.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page
        .split_once(&format!("{heading}\n"))
        .unwrap_or_else(|| panic!("the man page lacks {heading}"));
    let end = [".Sh ", ".Ss "].iter().filter_map(|next| rest.find(next));
    &rest[..end.min().unwrap_or(rest.len())]
}

fn literal(section: &str) -> impl Iterator<Item = &str> {
    let blocks = section.split(".Bd -literal\n").skip(1);
    blocks.map(|block| block.split(".Ed").next().unwrap_or_default())
}

/// What stands behind this macro, wherever it does.
fn marked(section: &str, with: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in section.lines().filter_map(|line| line.strip_prefix('.')) {
        let mut marked = false;
        for word in line.split_whitespace() {
            if [2, 3].contains(&word.len()) && word.starts_with(|c: char| c.is_ascii_uppercase()) {
                marked = word == with;
            } else if marked && is_keyword(&word.to_lowercase()) {
                found.insert(word.into());
            }
        }
    }
    found
}

fn items(section: &str) -> BTreeSet<u8> {
    let items = section.lines().filter_map(|line| line.strip_prefix(".It "));
    items.filter_map(|item| item.parse().ok()).collect()
}

#[test]
fn man_page_has_commands() {
    let page = page();
    let synopsis = section(&page, ".Sh SYNOPSIS");
    for command in COMMANDS {
        let name = format!("{} {}", command.object, command.verb);
        let name = name.trim();
        assert!(synopsis.contains(&format!(".Cm {name}\n")), "{name}");
        let section = section(&page, &format!(".Ss {name}"));
        assert_eq!(literal(section).next(), Some(command.grammar));
        assert_eq!(marked(section, "Cm"), keywords(command.grammar, name));
        assert!(
            items(section).is_superset(&statuses(command.about)),
            "{name}: exit statuses"
        );
    }
}

#[test]
fn man_page_has_the_rest() {
    let page = page();
    let options: BTreeSet<_> = options().into_iter().flat_map(<[_; 2]>::from).collect();
    assert_eq!(options.len(), 10);
    let items_only = section(&page, ".Sh OPTIONS").replace("\n.Fl", "");
    assert!(marked(&items_only, "Fl").is_superset(&options));

    let known = BTreeSet::from([SUCCESS, FAILURE, REFUSED, USAGE]);
    let help = help();
    let (_, end) = help.rsplit_once("\n\n").unwrap();
    assert_eq!(statuses(end), known);
    assert_eq!(items(section(&page, ".Sh EXIT STATUS")), known);

    let uapi = file("../docs/uapi.md");
    let sysctls: Vec<_> = uapi
        .split('`')
        .filter(|word| word.starts_with("net.xfrm_next."))
        .collect();
    assert_ne!(sysctls, [""; 0]);
    for sysctl in sysctls {
        assert!(page.contains(&format!(".It Va {sysctl}\n")), "{sysctl}");
    }
}

/// Whatever the name, the device is there.
struct AnyLink;

impl Links for AnyLink {
    fn index(&self, _name: &str) -> Option<i32> {
        Some(1)
    }

    fn name(&self, _index: i32) -> Option<String> {
        None
    }
}

#[test]
fn examples_are_well_formed() {
    let page = page();
    let mut parsed = 0;
    for block in literal(section(&page, ".Sh EXAMPLES")) {
        for line in block.replace("\\e\n", " ").lines() {
            let words: Vec<_> = line.split_whitespace().map(String::from).collect();
            let Some((name, words)) = words.split_at_checked(4) else {
                continue;
            };
            let mut args = Args::new(words);
            match &name.join(" ")[..] {
                "# xfrm-next state migrate" => {
                    drop(request::parse(&mut args, &AnyLink).expect(line))
                }
                "# xfrm-next state allocspi" => drop(allocspi::parse(&mut args).expect(line)),
                _ => continue,
            }
            parsed += 1;
        }
    }
    assert!(parsed > 3);
}

/// What the completion offers behind each of these lines.
fn completions(lines: &[String]) -> BTreeSet<String> {
    const SCRIPT: &str = "source completion.bash
        while read -r line; do
            read -ra COMP_WORDS <<<\"xfrm-next $line\"
            [[ $line == *- ]] || COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _xfrm_next
            printf '%s\\n' \"${COMPREPLY[@]}\"
        done";
    let mut bash = Command::new("bash");
    bash.args(["-c", SCRIPT]);
    bash.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = run(&mut bash, &format!("{}\n", lines.join("\n")));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let words = String::from_utf8(output.stdout).unwrap();
    words.split_whitespace().map(String::from).collect()
}

#[test]
fn completion_has_all_words() {
    let offered = completions(&[String::new()]);
    let (options_offered, objects): (BTreeSet<_>, _) =
        offered.into_iter().partition(|word| word.starts_with('-'));
    let expected = options().into_iter().map(|(_, long)| format!("-{long}"));
    assert_eq!(options_offered, expected.collect());
    assert_eq!(completions(&["-".into()]), options_offered);
    let mut expected = BTreeSet::from(["help".to_owned()]);
    expected.extend(COMMANDS.iter().map(|command| command.object.into()));
    assert_eq!(objects, expected);

    for object in COMMANDS.iter().map(|command| command.object) {
        let of_object = COMMANDS.iter().filter(|command| command.object == object);
        let mut expected = BTreeSet::from(["help".to_owned()]);
        expected.extend(of_object.map(|command| command.verb.into()));
        expected.remove("");
        assert_eq!(completions(&[format!("-j {object}")]), expected);
    }

    for command in COMMANDS.iter().filter(|command| !command.verb.is_empty()) {
        let name = format!("{} {}", command.object, command.verb);
        let expected = keywords(command.grammar, &name);
        let mut lines = vec![name.clone()];
        // Behind dev comes whatever devices there are.
        for word in expected.iter().filter(|word| *word != "dev") {
            lines.push(format!("{name} {word}"));
            if expected.contains("sel") {
                lines.push(format!("{name} sel {word}"));
            }
        }
        assert_eq!(completions(&lines), expected, "{name}");
    }
}

#[test]
fn one_version() {
    let kbuild = file("../Kbuild");
    assert!(kbuild.contains(&format!("\nexport XFRM_NEXT_VERSION := {VERSION}\n")));
    let changes = file("../CHANGELOG.md");
    let newest = changes.lines().find_map(|line| line.strip_prefix("## "));
    let newest = newest.unwrap().split([',', ' ']).next();
    assert_eq!(newest, Some(VERSION));
    assert!(page().contains(&format!("\n.Os xfrm-next {VERSION}\n")));
    assert!(file("../debian/changelog").starts_with(&format!("xfrm-next ({VERSION}) ")));
}

#[test]
fn batch_names_the_line() {
    for (line, status) in [("frob", USAGE), ("-b -", USAGE), ("probe junk", USAGE)] {
        let stdin = format!("# a comment\n-V\n\n{line}\n-V\n");
        let output = run(Command::new(PROGRAM).args(["-batch", "-"]), &stdin);
        assert_eq!(output.status.code(), Some(status.into()));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout, format!("xfrm-next {VERSION}\n"));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("Command failed -:4\n"), "{stderr}");
    }
}
