//! The devices of one's own account.

use valise_chat_core::api::{Command, Device, Event, Link, LinkRequest};
use valise_proto::Token;

use super::arguments::{DeviceAction, DeviceLink, Devices};
use super::exit::Failure;
use super::output::{Output, is_agreed, say};
use super::session::Session;
use super::target;
use crate::api::Happening;
use crate::printable::printable_line;

/// `devices ...`.
///
/// # Errors
/// [`Failure`].
pub(super) async fn devices(
    session: &mut Session,
    devices: Devices,
    output: &Output,
) -> Result<(), Failure> {
    match devices.action {
        None => list(session, devices.json, output).await,
        Some(DeviceAction::Link(arguments)) => link(session, &arguments, output).await,
        Some(DeviceAction::Requests(json)) => {
            let requests: Vec<LinkRequest> = session.ask(Command::LinkRequests {}).await?;
            if json.json {
                return output.json(&requests);
            }
            requests.iter().try_for_each(|request| output.line(request_line(request)))
        }
        Some(DeviceAction::Confirm { device }) => decide(session, &device, true).await,
        Some(DeviceAction::Reject { device }) => decide(session, &device, false).await,
        Some(DeviceAction::Remove { device }) => {
            let known: Vec<Device> = session.ask(Command::Devices {}).await?;
            let known = known.iter().map(|device| (&*device.device, &*device.name));
            let device = target::device(&device, known)?;
            session.tell(Command::RemoveDevice { device }).await
        }
    }
}

async fn list(session: &Session, is_json: bool, output: &Output) -> Result<(), Failure> {
    let devices: Vec<Device> = session.ask(Command::Devices {}).await?;
    if is_json {
        return output.json(&devices);
    }
    for device in devices {
        let since = output.time(device.since_ms);
        let this = if device.this { "  this one" } else { "" };
        let name = output.strong(&device.name);
        output.line(format!("{}  {name}  since {since}{this}", device.device))?;
    }
    Ok(())
}

async fn link(
    session: &mut Session,
    arguments: &DeviceLink,
    output: &Output,
) -> Result<(), Failure> {
    let mut events = session.api.events();
    let join_code = arguments.code.as_ref().map(Token::to_text);
    let command = Command::LinkDevice { join_code };
    let Link { link } = session.ask(command).await?;
    output.link(&link, !arguments.shown.no_qr)?;
    say("On the new device: `valise-chat init --link LINK`. Show the link to nobody else.");
    if arguments.shown.no_wait {
        return Ok(());
    }
    say("Waiting until the new device asks.");
    let request = loop {
        match events.next().await {
            Happening::Event(Event::LinkRequest { request }) => break request,
            Happening::Event(_) => continue,
            Happening::Ended(_) => {
                session.reopen().await?;
                events = session.api.events();
            }
            Happening::Missed => {}
        }
        let waiting: Vec<LinkRequest> = session.ask(Command::LinkRequests {}).await?;
        if let Some(request) = waiting.into_iter().next_back() {
            break request;
        }
    };
    output.line(request_line(&request))?;
    let device = request.device;
    if is_agreed("Does the new device show the same words?").await {
        session.tell(Command::ConfirmLink { device, accept: true }).await?;
        say("Linked.");
    } else {
        say(format!(
            "Compare the words. If they are the same: valise-chat devices confirm {device}\nIf not: \
             valise-chat devices reject {device}"
        ));
    }
    Ok(())
}

fn request_line(request: &LinkRequest) -> String {
    format!("{}  {}  {}", request.device, printable_line(&request.name), request.words.join(" "))
}

async fn decide(session: &Session, device: &str, accept: bool) -> Result<(), Failure> {
    let waiting: Vec<LinkRequest> = session.ask(Command::LinkRequests {}).await?;
    let waiting = waiting.iter().map(|request| (&*request.device, &*request.name));
    let device = target::device(device, waiting)?;
    session.tell(Command::ConfirmLink { device, accept }).await?;
    say(if accept { "Linked." } else { "Refused." });
    Ok(())
}
