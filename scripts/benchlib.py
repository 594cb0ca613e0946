"""Starts what the benches measure, on loopback and in a folder of its own, and loads it: what scripts/bench and
scripts/bench-peers share.
"""

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
FILES = {"small": 2, "large": 10 * 1024}


class Failure(Exception):
    """The run cannot go on; the text says why."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, ready, process, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failure(f"{what} ended with status {process.returncode}")
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise Failure(f"{what} was not ready within {seconds} s")


def accepts(port):
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def get(port, path, headers=None, method="GET"):
    """One request on a connection of its own: status, header list, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


class Lab:
    """Owns the processes and the folder of one run."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.processes = []

    def start(self, name, command, **options):
        log = open(self.folder / f"{name}.log", "wb")
        options = {"stdin": subprocess.DEVNULL, "stdout": log} | options
        process = subprocess.Popen(command, stderr=log, cwd=self.folder, **options)
        self.processes.append(process)
        return process

    def stop(self):
        for process in reversed(self.processes):
            if process.stdin:
                process.stdin.close()
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def nginx(self, name, http):
        config = self.folder / f"{name}.conf"
        # Started by root, workers become another user, who must still reach the files.
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            f"""{user} daemon off; worker_processes 1; pid {self.folder}/{name}.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 300s;
  client_body_temp_path {self.folder}/{name}-1; proxy_temp_path {self.folder}/{name}-2;
  fastcgi_temp_path {self.folder}/{name}-3; uwsgi_temp_path {self.folder}/{name}-4; scgi_temp_path {self.folder}/{name}-5;
  {http}
}}
"""
        )
        return self.start(name, ["nginx", "-p", str(self.folder), "-c", str(config)])


@contextlib.contextmanager
def laboratory(name):
    """A lab that is gone afterwards. A run that cannot go on shows what its processes had to say, and exits with 2."""
    # A run that is told to end cleans up, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix=f"daypass-{name}-") as folder:
        lab = Lab(folder)
        try:
            yield lab
        except Failure as failure:
            say(f"{name}: {failure}")
            for log in sorted(Path(folder).glob("*.log")):
                if text := log.read_text(errors="replace").strip():
                    say(f"--- {log.name}\n{text[-2000:]}")
            sys.exit(2)
        finally:
            lab.stop()


def start_upstream(lab):
    port = free_port()
    root = lab.folder / "www"
    root.mkdir()
    for name, size in FILES.items():
        (root / name).write_bytes(b"x" * size)
    process = lab.nginx(
        "upstream",
        f"""server {{
    listen 127.0.0.1:{port}; root {root}; open_file_cache max=16; default_type application/octet-stream;
    location = /whoami {{ return 200 "$http_authorization"; }}
    location = /cookies {{ return 200 "$http_cookie"; }}
    location = /forged {{ return 200 "$http_x_forwarded_access_token"; }}
    location = /status {{ stub_status; }}
  }}""",
    )
    wait_for("the upstream", lambda: accepts(port), process)
    return port


def upstream_connections(port):
    """Connections the upstream has accepted since it started."""
    return int(get(port, "/status")[2].split(b"\n")[2].split()[0])


def start_nginx(lab, upstream):
    port = free_port()
    process = lab.nginx(
        "nginx",
        f"""upstream app {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}""",
    )
    wait_for("nginx", lambda: accepts(port), process)
    return process, port


class Fixture:
    """The provider: examples/bench_fixture.rs says what it does."""

    def __init__(self, lab, program, name="fixture"):
        self.process = lab.start(name, [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.about = self._answer()

    def tell(self, command):
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise Failure(f"bench_fixture: {answer['error']}")
        return answer

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failure("bench_fixture printed nothing")
        return json.loads(line)


def start_redis(lab, name="redis"):
    port = free_port()
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(lab.folder)]
    process = lab.start(name, ["redis-server", "--port", str(port), *options])
    wait_for("Redis", lambda: accepts(port), process)
    return process, port


def start_daypass(lab, program, name, upstream, provider, access, store, session=None):
    """`provider` and `session` are sections of the configuration; `session` adds to what is needed anyway."""
    port, admin = free_port(), free_port()
    keys = [base64.b64encode(os.urandom(32)).decode()]
    config = {
        "public_url": f"http://127.0.0.1:{port}",
        "listen": f"127.0.0.1:{port}",
        "admin": {"listen": f"127.0.0.1:{admin}"},
        "provider": provider,
        "session": {"store": store, "keys": keys} | (session or {}),
        "routes": [
            {"name": "bench", "path_prefix": "/", "access": access, "upstream": f"http://127.0.0.1:{upstream}"}
        ],
        # The others write no access log either.
        "logging": {"format": "json", "level": "warn", "access_log": False},
    }
    name = re.sub(r"\W+", "-", name)
    # JSON is YAML.
    path = lab.folder / f"{name}.yaml"
    path.write_text(json.dumps(config, indent=2))
    process = lab.start(name, [program, "run", "-c", str(path)])
    wait_for(name, lambda: get(admin, "/readyz")[0] == 200, process)
    return process, port


class Browser:
    """Keeps cookies, per port, for as long as a browser would. (Real ones know no ports; here each proxy is a site.)"""

    def __init__(self):
        self.jars = {}

    def cookies(self, port):
        """The `Cookie` header for the site; empty when there is none."""
        now = time.monotonic()
        alive = [(name, value) for name, (value, ends) in self.jars.get(port, {}).items() if ends > now]
        return "; ".join(f"{name}={value}" for name, value in alive)

    def learn(self, port, headers):
        """Takes in the `Set-Cookie` lines of an answer."""
        jar = self.jars.setdefault(port, {})
        for name, line in headers:
            if name.lower() != "set-cookie":
                continue
            (cookie, _, value), *attributes = [part.strip().partition("=") for part in line.split(";")]
            attributes = {name.lower(): text for name, _, text in attributes}
            ends = float("inf")
            if "max-age" in attributes:
                ends = time.monotonic() + int(attributes["max-age"])
            elif " 1970 " in attributes.get("expires", "").replace("-", " "):
                ends = 0
            jar[cookie] = (value, ends)

    def log_in(self, port):
        """Walks from the page to the provider and back; returns the `Cookie` header of the session."""
        url = f"http://127.0.0.1:{port}/small"
        for _ in range(10):
            parts = urlsplit(url)
            headers = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
            if cookies := self.cookies(parts.port):
                headers["Cookie"] = cookies
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            status, answer, _ = get(parts.port, target, headers)
            self.learn(parts.port, answer)
            if status == 200 and parts.port == port:
                return self.cookies(port)
            location = next((value for name, value in answer if name.lower() == "location"), None)
            if status not in (302, 303, 307) or location is None:
                raise Failure(f"login: {parts.path} answered {status} without a way on")
            url = urljoin(url, location)
            if urlsplit(url).hostname != "127.0.0.1":
                raise Failure("login: led away from 127.0.0.1")
        raise Failure("login: too many redirects")


def prove(name, port, cookie, refusals=(401,)):
    """The numbers are worth nothing unless each proxy does its work: right bodies, a token where one is due."""
    headers = {"Cookie": cookie} if cookie else {}
    for file, size in FILES.items():
        status, _, body = get(port, f"/{file}", headers)
        if status != 200 or len(body) != size:
            raise Failure(f"{name}: /{file} answered {status} with {len(body)} bytes")
    token = get(port, "/whoami", headers)[2]
    if token.startswith(b"Bearer ") != bool(cookie):
        raise Failure(f"{name}: {'no' if cookie else 'a'} token arrived at the upstream")
    if cookie and get(port, "/small", {"Accept": "application/json"})[0] not in refusals:
        raise Failure(f"{name}: a request without session is not refused")


def family(pid):
    """The process and its descendants (nginx and Apache have workers)."""
    pids = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pids += family(int(child))
    return pids


def cpu_seconds(pid):
    """CPU time of the process and its descendants, those that have ended among them."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(ticks) for ticks in fields[11:15])
    return total / TICKS_PER_SECOND


def resident_mib(pid):
    total = 0
    for each in family(pid):
        total += int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{each}/status").read_text())[1])
    return total / 1024


def milliseconds(text):
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if not match:  # "-nan" on rare runs of wrk
        return float("nan")
    number, unit = match.groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[unit]


def load(port, file, cookie, connections, seconds):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/{file}"]
    if cookie:
        command += ["-H", f"Cookie: {cookie}"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    bad = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    for line in re.findall(r"Socket errors: (.*)", out):
        bad += sum(int(n) for n in re.findall(r"\d+", line))
    return {
        "requests": int(re.search(r"(\d+) requests in", out)[1]),
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),
        "p50": milliseconds(re.search(r"50%\s+(\S+)", out)[1]),
        "p99": milliseconds(re.search(r"99%\s+(\S+)", out)[1]),
        "bad": bad,
    }


def measure(processes, port, cookie, file, upstream, options):
    """One turn of load; CPU time is that of all `processes`, and told apart in `cpus`."""
    opened = upstream_connections(upstream)
    before = [cpu_seconds(process.pid) for process in processes]
    run = load(port, file, cookie, options.connections, options.seconds)
    if not run["requests"]:
        raise Failure(f"no answer at all on port {port}")
    run["cpus"] = [
        (cpu_seconds(process.pid) - start) * 1e6 / run["requests"] for process, start in zip(processes, before)
    ]
    run["cpu"] = sum(run["cpus"])
    # One of the connections is the question itself.
    run["opened"] = upstream_connections(upstream) - opened - 1
    return run


def turns(names, number):
    """The names in the order of this round: each round begins with another one."""
    turn = number % len(names)
    return names[turn:] + names[:turn]


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def ratio(runs, base, key):
    ratios = [a[key] / b[key] for a, b in zip(runs, base) if b[key]]
    if not ratios:
        return None, "–"
    middle = statistics.median(ratios)
    return middle, f"{middle:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def machine():
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    name = model[1] if model else os.uname().machine
    return f"{os.cpu_count()} × {name}, load {os.getloadavg()[1]:.1f}"


def search_path():
    # Debian keeps servers where only root looks.
    return os.environ.get("PATH", "") + ":/usr/sbin"


def target_folder():
    return Path(os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
