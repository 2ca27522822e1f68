//! The fuzz program. Built plainly it lists the targets and replays inputs; built by
//! `cargo xtask fuzz` it has no `main` of its own, because libFuzzer brings one.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
#[allow(unsafe_code)]
mod libfuzzer;

/// `postroad-fuzz --list`, or `postroad-fuzz TARGET FILE..` to replay inputs.
#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    match replay(&args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("postroad-fuzz: {problem}");
            std::process::ExitCode::from(2)
        }
    }
}

#[cfg(not(fuzzing))]
fn replay(args: &[String]) -> Result<(), String> {
    let Some((name, files)) = args.split_first() else {
        return Err("usage: postroad-fuzz --list | TARGET FILE..".to_owned());
    };
    if name == "--list" {
        for (name, _) in postroad_fuzz::TARGETS {
            println!("{name}");
        }
        return Ok(());
    }
    let run = postroad_fuzz::target(name).ok_or_else(|| format!("no target `{name}`"))?;
    for file in files {
        let input = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
        run(&input);
        println!("{file}: passed");
    }
    Ok(())
}
