//! The verb `portolan convert`: reads a file, writes objects to standard output and the report to standard error.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use super::conversion::{Conversion, convert};
use super::report::{ObjectReport, Outcome};

/// Flags of `portolan convert`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConvertArgs {
    /// A file of manifests (YAML or JSON, Lists too), or - for standard input.
    file: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Form,
    /// The agent's namespace: Secrets that peers name are written to it.
    #[arg(long, default_value = "portolan")]
    namespace: String,
}

const EXAMPLES: &str = "Exit code: 0 all was carried over, 2 something has no counterpart (the report says what to do), 1 unreadable.

Examples:
  portolan convert calico.yaml > portolan.yaml
  portolan convert - -o json | jq '.report[].fields[]'";

/// How a conversion is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Objects as YAML to standard output, the report to standard error.
    Yaml,
    /// Objects and report as one JSON text to standard output.
    Json,
}

/// The largest text that is read.
const LARGEST: u64 = 64 << 20;

/// Something has no counterpart.
const INCOMPLETE: u8 = 2;

/// Carries out the verb; the exit code says whether all could be carried over.
///
/// # Errors
/// A file that cannot be read, or that is no YAML of objects.
pub(crate) fn run(args: &ConvertArgs) -> Result<ExitCode> {
    let text = read(args)?;
    let conversion = convert(&text, &args.namespace)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    if conversion.report.is_empty() {
        bail!("{} holds no object", args.file.display());
    }
    match args.output {
        Form::Yaml => {
            print(std::io::stdout(), &yaml(&conversion)?)?;
            print(std::io::stderr(), &words(&conversion))?;
        }
        Form::Json => {
            let text = serde_json::to_string_pretty(&conversion)? + "\n";
            print(std::io::stdout(), &text)?;
        }
    }
    Ok(match conversion.counts.no_counterpart {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(INCOMPLETE),
    })
}

fn read(args: &ConvertArgs) -> Result<String> {
    let mut text = String::new();
    let name = args.file.display();
    let wrong = || format!("cannot read {name}");
    let source: Box<dyn std::io::Read> = match args.file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(&args.file).with_context(wrong)?),
    };
    let mut limited = source.take(LARGEST + 1);
    limited.read_to_string(&mut text).with_context(wrong)?;
    if text.len() as u64 > LARGEST {
        bail!(
            "{name} has more than {} MiB: convert it in parts",
            LARGEST >> 20
        );
    }
    Ok(text)
}

/// A reader that has had enough (`| head`) is no failure.
fn print(mut to: impl std::io::Write, text: &str) -> Result<()> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The objects as a YAML stream.
fn yaml(conversion: &Conversion) -> Result<String> {
    let mut text = String::new();
    for (index, object) in conversion.objects.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        for line in &object.comment {
            text.push_str(&format!("# {line}\n"));
        }
        let document = datastore::write_document(&object.value)?;
        text.push_str(document.trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// The report for eyes: what needs nothing is only counted.
fn words(conversion: &Conversion) -> String {
    let mut text = String::new();
    for object in &conversion.report {
        text.push_str(&section(object));
    }
    let counts = conversion.counts;
    text.push_str(&format!(
        "{} read: {} carried over, {} changed in meaning, {} without a counterpart, {} with nothing to carry over.\n",
        amount(conversion.report.len(), "object"),
        amount(counts.carried, "field"),
        counts.changed,
        counts.no_counterpart,
        counts.not_needed,
    ));
    text
}

fn amount(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

fn section(object: &ObjectReport) -> String {
    let mut text = format!(
        "{} ({}), line {}\n",
        object.object, object.api_version, object.line
    );
    let mut silent = 0;
    for entry in &object.fields {
        let word = match entry.outcome {
            Outcome::Carried => "carried",
            Outcome::Changed => "changed",
            Outcome::NoCounterpart => "NONE   ",
            Outcome::NotNeeded => {
                silent += 1;
                continue;
            }
        };
        let to: Vec<String> = entry.to.iter().map(ToString::to_string).collect();
        let arrow = if to.is_empty() { "" } else { " -> " };
        let colon = if entry.note.is_empty() { "" } else { ": " };
        text.push_str(&format!(
            "  {word}  {}{arrow}{}{colon}{}\n",
            entry.field,
            to.join(", "),
            entry.note
        ));
    }
    if silent > 0 {
        let fields = amount(silent, "field");
        text.push_str(&format!("  ({fields} with nothing to carry over)\n"));
    }
    text
}
