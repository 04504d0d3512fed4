//! The request that the command line describes.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::RunArgs;
use crate::error::Error;
use crate::turn::{ApprovalMode, Review, TurnRequest};

/// Returns the request that the command line describes. Reads the prompt from standard input if it is `-`.
///
/// # Errors
///
/// With exit code 64.
pub(super) fn request(args: &RunArgs) -> Result<TurnRequest, Error> {
    if args.approval == ApprovalMode::Ask && !super::ask::is_possible() {
        return Err(Error::usage("`--approval ask` needs a terminal to ask on")
            .hint("without it, what needs an approval fails: `--approval never`"));
    }
    let needs_prompt = matches!(args.review, None | Some(Review::Custom));
    let prompt = match &args.prompt {
        Some(prompt) if prompt != "-" => prompt.clone(),
        Some(_) => from_stdin()?,
        None if !needs_prompt => String::new(),
        None if std::io::stdin().is_terminal() => {
            return Err(Error::usage("there is no prompt")
                .hint("codexd run 'what to do', or codexd run - to type it, with Ctrl-D at its end"));
        }
        None => from_stdin()?,
    };
    let request = TurnRequest {
        prompt,
        cwd: cwd(args)?,
        model: args.model.clone(),
        effort: args.effort.clone(),
        sandbox: args.sandbox,
        approval: args.approval,
        thread: args.thread.clone(),
        review: args.review.clone(),
        output_schema: args.output_schema.as_deref().map(schema).transpose()?,
    };
    request.check()?;
    Ok(request)
}

fn from_stdin() -> Result<String, Error> {
    let mut prompt = String::new();
    std::io::stdin()
        .read_to_string(&mut prompt)
        .map_err(|error| Error::usage("cannot read the prompt from standard input").because(error))?;
    Ok(prompt)
}

/// Returns the directory for the thread: the given one; without one, for a new thread, that of this process.
fn cwd(args: &RunArgs) -> Result<Option<String>, Error> {
    let path: PathBuf = match &args.cd {
        Some(named) => {
            let no = |error| Error::usage(format!("cannot work in `{}`", named.display())).because(error);
            let path = named.canonicalize().map_err(no)?;
            if !path.is_dir() {
                return Err(Error::usage(format!("`{}` is not a directory", named.display())));
            }
            path
        }
        None if args.thread.is_some() => return Ok(None),
        None => std::env::current_dir().map_err(|error| {
            Error::usage("the current directory is gone")
                .because(error)
                .hint("cd to another one, or `--cd DIR`")
        })?,
    };
    let text = path.into_os_string().into_string();
    text.map(Some).map_err(|path| Error::usage(format!("the path `{}` is not UTF-8", path.display())))
}

fn schema(path: &Path) -> Result<Value, Error> {
    let text = std::fs::read(path).map_err(|error| {
        Error::usage(format!("cannot read the schema `{}`", path.display())).because(error)
    })?;
    let schema: Value = serde_json::from_slice(&text).map_err(|error| {
        Error::usage(format!("the schema `{}` is not JSON", path.display())).because(error)
    })?;
    if !schema.is_object() {
        return Err(Error::usage(format!("the schema `{}` is not a JSON object", path.display())));
    }
    Ok(schema)
}
