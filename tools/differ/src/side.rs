// SPDX-License-Identifier: GPL-2.0

//! One network namespace, whose handler is one of the two.

use crate::case::{Ack, Case, Outcome, Step, Trace, Traffic};
use crate::explain;
use crate::message::{attrs, flag, kind, messages, read, Message, OWN_PORT};
use crate::sa::{self, attr, Sa};
use module::xfrm::uapi::{Address, MigrateState, SaInfo, AF_INET, GROUP_MIGRATE};
use netlink_sys::{protocols::NETLINK_XFRM, Socket, SocketAddr};
use rustix::io::Errno;
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};
use std::fs::File;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;
use zerocopy_derive::{Immutable, IntoBytes};

/// Groups that hear of what a migration may do: acquire, expire, SA, policy, migrate, mapping.
/// Not those whose events depend on the time.
const GROUPS: [u32; 6] = [1, 2, 3, 4, GROUP_MIGRATE, 8];

/// Beyond the numbers of all steps.
const FIRST_DUMP: u32 = 1 << 16;

/// How long the kernel's garbage collector may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// The thread's namespace, and its sockets.
pub struct Side {
    xfrm: Socket,
    hear: Socket,
    port: u32,
    heard: bool,
    /// How often all SAs were asked for, which numbers the answers.
    dumps: u32,
    /// Whether a request that is refused may be sent in another form, too.
    retries: bool,
    buffer: Vec<u8>,
}

impl Side {
    /// Moves the thread into the namespace behind `path`, for good.
    pub fn enter(path: &str, retries: bool) -> io::Result<Self> {
        let namespace = File::open(path)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;

        let mut xfrm = Socket::new(NETLINK_XFRM)?;
        let port = xfrm.bind_auto()?.port_number();
        xfrm.set_cap_ack(true)?;
        xfrm.set_ext_ack(true)?;
        let mut hear = Socket::new(NETLINK_XFRM)?;
        hear.bind_auto()?;
        for group in GROUPS {
            hear.add_membership(group)?;
        }
        for socket in [&xfrm, &hear] {
            socket.set_rx_buf_sz(1 << 22)?;
        }
        Ok(Self {
            xfrm,
            hear,
            port,
            heard: true,
            dumps: FIRST_DUMP,
            retries,
            buffer: vec![0; 1 << 13],
        })
    }

    /// Does all steps of a case, in a namespace that is empty at first.
    pub fn run(&mut self, case: &Case) -> io::Result<Trace> {
        self.listen(case.heard)?;
        let flush = Message::new(kind::FLUSHSA, flag::ACK, &[0u8; 4]);
        let empty = self.settled(&[&flush], 0, |answer| answer.sas.is_empty())?;
        if !empty.sas.is_empty() {
            return Err(io::Error::other(format!("SAs that stay: {empty:?}")));
        }
        let start = self.ask(&case.sas.iter().collect::<Vec<_>>(), 0)?;
        let mut trace = Trace {
            made: start.acks,
            start: start.sas,
            ..Trace::default()
        };
        pending(&self.hear, &mut self.buffer)?;

        let mut newest = trace.start.clone();
        for (number, step) in case.steps.iter().enumerate() {
            let outcome = match step {
                Step::Migrate(request) => self.migrate(request, number as u32, &newest)?,
                Step::Packets(count) => self.packets(*count, &newest)?,
            };
            newest.clone_from(&outcome.last().sas);
            let done = outcome.last().ack.errno == 0;
            trace.outcomes.push(outcome);
            if done && matches!(step, Step::Migrate(request) if takes_hidden(request)) {
                // The in-tree handler's copy of it has no users. If one comes, it is the only
                // one, with which nobody deletes the copy, and a flush may pass it over.
                break;
            }
        }
        trace.end = self.end(&newest)?;
        Ok(trace)
    }

    fn listen(&mut self, heard: bool) -> io::Result<()> {
        if heard != self.heard {
            match heard {
                true => self.hear.add_membership(GROUP_MIGRATE)?,
                false => self.hear.drop_membership(GROUP_MIGRATE)?,
            }
            self.heard = heard;
        }
        Ok(())
    }

    fn migrate(
        &mut self,
        request: &Message,
        number: u32,
        before: &[Message],
    ) -> io::Result<Outcome> {
        let mut outcome = self.request(request, number, before)?;
        let retry = explain::retry(request, outcome.ack.text());
        if let Some(request) = retry.filter(|_| self.retries) {
            outcome.retry = Some(Box::new(self.migrate(&request, number, before)?));
        }
        Ok(outcome)
    }

    fn request(
        &mut self,
        request: &Message,
        number: u32,
        before: &[Message],
    ) -> io::Result<Outcome> {
        let settled = |answer: &Answer| match answer.acks[0].errno {
            0 => takes_hidden(request) || all_in_use(&answer.sas),
            _ => answer.sas == before || !answer.sas.iter().any(Sa::is_hidden),
        };
        let mut answer = self.settled(&[request], number, settled)?;
        Ok(Outcome {
            ack: answer.acks.remove(0),
            told: self.told()?,
            sas: answer.sas,
            ..Outcome::default()
        })
    }

    /// Asks, and waits for a while until all is as it should be: what IPComp has
    /// made for an SA that was not to be goes with its memory.
    fn settled(
        &mut self,
        requests: &[&Message],
        number: u32,
        right: impl Fn(&Answer) -> bool,
    ) -> io::Result<Answer> {
        let mut answer = self.ask(requests, number)?;
        let end = Instant::now() + PATIENCE;
        while !right(&answer) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
            answer.sas = self.ask(&[], 0)?.sas;
        }
        Ok(answer)
    }

    /// Sends requests and asks for all SAs, in one datagram. All are answered.
    fn ask(&mut self, requests: &[&Message], number: u32) -> io::Result<Answer> {
        let mut datagram = Vec::new();

        for request in requests {
            request.pack(&mut datagram, number, self.port);
        }
        self.dumps += 1;
        let dump = self.dumps;
        Message::new(kind::GETSA, flag::DUMP, &()).pack(&mut datagram, dump, 0);
        self.xfrm.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
        let mut answer = Answer::default();
        for (seq, message) in pending(&self.xfrm, &mut self.buffer)? {
            match message.kind {
                kind::ERROR => answer.acks.push(ack(&message)),
                kind::NEWSA if seq == dump => answer.sas.push(known(message, self.port)),
                kind::DONE if seq == dump => answer.whole = true,
                _ if seq >= FIRST_DUMP => return Err(io::Error::other("a dump comes late")),
                _ => {}
            }
        }
        let (answers, asked) = (answer.acks.len(), requests.len());
        if answers != asked || !answer.whole {
            let what = format!("{answers} answers to {asked} requests, dump: {answer:?}");
            return Err(io::Error::other(what));
        }
        Ok(answer)
    }

    fn told(&mut self) -> io::Result<Vec<(u32, Message)>> {
        let own = self.port;
        let told = pending(&self.hear, &mut self.buffer)?;
        Ok(told.into_iter().map(|(s, m)| (s, known(m, own))).collect())
    }

    /// What a dump doesn't tell: thresholds, and how many SAs there are.
    fn end(&mut self, sas: &[Message]) -> io::Result<Vec<Message>> {
        let mut datagram = Vec::new();
        Message::new(kind::GETSADINFO, 0, &0u32).pack(&mut datagram, 0, 0);
        for sa in sas.iter().filter(|sa| !sa.is_hidden()) {
            let (info, mark) = (sa.info(), sa.mark());
            let takes =
                |sa: &&Message| sa.takes(&info.daddr, info.spi, info.proto, info.family, mark.v);
            if sas.iter().filter(takes).count() > 1 {
                continue; // Which one is found is open.
            }
            let mark = sa.attrs.iter().filter(|(kind, _)| *kind == attr::MARK);
            let mut ask = Message::new(kind::GETAE, 0, &Aevent::of(&sa.info()));
            ask.attrs.extend(mark.cloned());
            ask.pack(&mut datagram, 0, 0);
        }
        self.xfrm.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
        let answers = pending(&self.xfrm, &mut self.buffer)?.into_iter();
        let aevent = |(_, message): (u32, Message)| match message.kind {
            kind::NEWAE => known(message, self.port)
                .split(size_of::<Aevent>())
                .without(&[attr::LTIME_VAL]),
            _ => known(message, self.port),
        };
        Ok(answers.map(aevent).collect())
    }

    /// Sends packets through the newest SA that they can take; lo brings them back to it.
    fn packets(&mut self, count: u32, sas: &[Message]) -> io::Result<Outcome> {
        let Some(sa) = sas.iter().find(|sa| sa::carries_packets(sa)) else {
            return Ok(Outcome {
                sas: sas.to_vec(),
                ..Outcome::default()
            });
        };
        let info = sa.info();
        let before = counters()?;
        self.ask(&[&policy(&info)], 0)?;
        let (from, to) = (ip(info.saddr, info.family), ip(info.daddr, info.family));
        let sender = UdpSocket::bind((from, 0))?;
        let receiver = UdpSocket::bind((to, 0))?;
        receiver.set_nonblocking(true)?;
        let mut traffic = Traffic::default();
        for number in 0..count {
            let packet = [number as u8; 200];
            traffic.sent += u32::from(sender.send_to(&packet, receiver.local_addr()?).is_ok());
        }
        // Each arrives or is counted, soon.
        let end = Instant::now() + Duration::from_secs(3);
        let mut packet = [0; 256];
        loop {
            while receiver.recv(&mut packet).is_ok() {
                traffic.delivered += 1;
            }
            traffic.errors = changes(&before, &counters()?);
            let refused = traffic
                .errors
                .iter()
                .filter(|(name, _)| name.starts_with("XfrmIn"));
            let seen = u64::from(traffic.delivered) + refused.map(|(_, n)| n).sum::<u64>();
            if seen >= traffic.sent.into() || Instant::now() > end {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let flush = Message::new(kind::FLUSHPOLICY, flag::ACK, &());
        let sas = self.ask(&[&flush], 0)?.sas;
        let mut told = self.told()?;
        told.retain(|(_, message)| message.kind == kind::EXPIRE);
        Ok(Outcome {
            told,
            sas,
            traffic: Some(traffic),
            ..Outcome::default()
        })
    }
}

/// Whether a request is about what the kernel has made for IPComp (row 5).
fn takes_hidden(request: &Message) -> bool {
    let header: Option<MigrateState> = read(&request.payload());
    header.is_some_and(|header| sa::HIDDEN.contains(&header.id.proto))
}

/// Whether there is an SA of IPComp for each that the kernel has made for one. A refused
/// request's, which no dump shows, may still use what the next one has left.
fn all_in_use(sas: &[Message]) -> bool {
    let uses = |user: &SaInfo, hidden: &SaInfo| {
        user.proto == sa::COMP
            && user.family == hidden.family
            && user.daddr.equals(&hidden.daddr, user.family)
            && user.saddr.equals(&hidden.saddr, user.family)
    };
    let mut hidden = sas.iter().filter(|sa| sa.is_hidden()).map(Sa::info);
    hidden.all(|hidden| sas.iter().any(|sa| uses(&sa.info(), &hidden)))
}

#[derive(Debug, Default)]
struct Answer {
    acks: Vec<Ack>,
    sas: Vec<Message>,
    /// Whether these are all SAs.
    whole: bool,
}

/// All messages that have come; the kernel answers before a request returns.
fn pending(socket: &Socket, buffer: &mut [u8]) -> io::Result<Vec<(u32, Message)>> {
    let mut found = Vec::new();
    loop {
        match rustix::net::recv(socket, &mut *buffer, rustix::net::RecvFlags::DONTWAIT) {
            Ok((length, _)) => found.extend(messages(&buffer[..length])),
            Err(Errno::AGAIN) => return Ok(found),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The message with its parts, and without what two namespaces never have in common.
fn known(message: Message, own: u32) -> Message {
    let mut message = match message.kind {
        kind::NEWSA | kind::EXPIRE => {
            let fixed = sa::fixed(message.kind);
            let mut message = message.split(fixed);
            sa::settle(&mut message);
            message
        }
        kind::MIGRATE_STATE => message.split(explain::HEADER),
        _ => message,
    };
    if message.port == own {
        message.port = OWN_PORT;
    }
    message
}

fn ack(message: &Message) -> Ack {
    let error: i32 = read(&message.body).unwrap_or(0);
    let length = read::<u32>(&message.body[4..]).unwrap_or(16) as usize;
    let capped = message.flags & flag::CAPPED != 0 || error == 0;
    let echo = if capped {
        16
    } else {
        length.next_multiple_of(4)
    };
    let details = match message.flags & flag::ACK_TLVS {
        0 => Vec::new(),
        _ => attrs(message.body.get(4 + echo..).unwrap_or_default()).collect(),
    };
    Ack {
        errno: -error,
        details,
    }
}

/// `struct xfrm_aevent_id`.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Aevent {
    id: module::xfrm::uapi::Id,
    saddr: Address,
    flags: u32,
    reqid: u32,
}

impl Aevent {
    fn of(info: &SaInfo) -> Self {
        Self {
            id: info.id(),
            saddr: info.saddr,
            flags: 1 | 2 | 4 | 8,
            reqid: info.reqid,
        }
    }
}

/// A policy for the traffic between the ends of an SA, that asks for it.
fn policy(info: &SaInfo) -> Message {
    let mut body = [sa::ends(info).as_bytes(), info.lft.as_bytes(), &[0; 48]].concat();
    for limit in body[56..88].chunks_mut(8) {
        limit.copy_from_slice(&u64::MAX.to_ne_bytes());
    }
    body[56 + 32..56 + 64].fill(0);
    body[56 + 64 + 32 + 8] = 1; // out
    let mut template = [info.daddr.as_bytes(), &[0; 48]].concat();
    template[20] = info.proto;
    template[24..26].copy_from_slice(&info.family.to_ne_bytes());
    template[28..44].copy_from_slice(info.saddr.as_bytes());
    template[44..48].copy_from_slice(&info.reqid.to_ne_bytes());
    template[48] = info.mode;
    template[52..64].fill(0xff);
    Message::new(kind::NEWPOLICY, flag::ACK, &body[..]).with(attr::TMPL, &template[..])
}

fn ip(address: Address, family: u16) -> IpAddr {
    let Address(bytes) = address;
    match family {
        AF_INET => <[u8; 4]>::try_from(&bytes[..4]).expect("4 bytes").into(),
        _ => bytes.into(),
    }
}

type Counters = Vec<(String, u64)>;

/// What has been counted since.
fn changes(before: &Counters, after: &Counters) -> Counters {
    let changed = after
        .iter()
        .zip(before)
        .filter(|(after, before)| after != before);
    changed
        .map(|((name, after), (_, before))| (name.clone(), after - before))
        .collect()
}

fn counters() -> io::Result<Counters> {
    let text = std::fs::read_to_string("/proc/thread-self/net/xfrm_stat")?;
    let count = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_string(), value.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(count).collect())
}
