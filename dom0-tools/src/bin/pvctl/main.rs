//! `pvctl`: dom0's shell from the host, over the control channel.
//!
//! The words of the command go to dom0 as they are; it parses them, acts and answers. This program only carries
//! text and turns the outcome into its exit status: 0 done, 1 failed, 2 usage, 3 no such domain, 4 dom0 cannot be
//! reached, 5 time-out.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
mod channel;
#[cfg(not(target_os = "none"))]
mod options;
#[cfg(not(target_os = "none"))]
mod sockets;
#[cfg(not(target_os = "none"))]
mod terminal;

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    use dom0_tools::ctl::Exit;

    let options = match options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return Exit::Usage.code().into();
        }
    };
    if options.words.is_empty() || options.help {
        println!("{}", options::USAGE);
        return if options.help { Exit::Ok.code() } else { Exit::Usage.code() }.into();
    }
    match channel::run(&options) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("pvctl: {error}");
            error.exit().code().into()
        }
    }
}
