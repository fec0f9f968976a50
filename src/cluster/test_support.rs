//! Surroundings and a scripted HTTP server for unit tests.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::options::Environment;

/// An environment with these variables and the process's `PATH`, without a home or a terminal.
pub(crate) fn environment(variables: &[(&str, &str)]) -> Environment {
    let mut all: BTreeMap<_, _> =
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    all.extend(std::env::var_os("PATH").map(|path| ("PATH".into(), path)));
    Environment {
        variables: all,
        home: None,
        stdin_is_terminal: false,
        asks_nobody: false,
        service_account: PathBuf::from("/no/such/folder"),
    }
}

/// A kubeconfig with one server and one user, whose entry is given in YAML at four blanks.
pub(crate) fn kubeconfig(server: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\nclusters:\n- name: cluster\n  cluster:\n    \
         server: {server}\ncontexts:\n- name: here\n  context: {{cluster: cluster, user: me, namespace: ignored}}\n\
         users:\n- name: me\n  user:\n    {user}\n"
    )
}

/// What the server does with one request.
pub(crate) enum Reply {
    /// Sends these bytes and closes.
    Bytes(String),
    /// Sends the first part, and the rest only once the next request was answered.
    Parts(String, String),
    /// Sends these bytes and then nothing more, without closing.
    Hang(String),
    /// Cuts the connection with a TCP reset.
    Reset,
}

impl Reply {
    pub(crate) fn status(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        ))
    }

    pub(crate) fn ok(body: &str) -> Self {
        Self::status("200 OK", "", body)
    }
}

/// A server that gives one reply after the other, one per connection, and the last one for ever.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            let mut replies = VecDeque::from(replies);
            let mut hanging = Vec::new();
            let mut unfinished: Option<(TcpStream, String)> = None;
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = read_head(&mut stream).await;
                seen.lock().unwrap().push(head);
                let reply = if replies.len() > 1 { replies.pop_front() } else { None };
                let before = unfinished.take();
                match reply.as_ref().or(replies.front()) {
                    Some(Reply::Parts(first, rest)) => {
                        let _ = stream.write_all(first.as_bytes()).await;
                        unfinished = Some((stream, rest.clone()));
                    }
                    Some(Reply::Bytes(bytes)) => {
                        let _ = stream.write_all(bytes.as_bytes()).await;
                        let _ = stream.shutdown().await;
                    }
                    Some(Reply::Hang(bytes)) => {
                        let _ = stream.write_all(bytes.as_bytes()).await;
                        hanging.push(stream);
                    }
                    Some(Reply::Reset) => stream.set_zero_linger().unwrap(),
                    None => {}
                }
                if let Some((mut stream, rest)) = before {
                    let _ = stream.write_all(rest.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        Self { address, heads }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of the requests so far, in lower case.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).to_lowercase()
}
