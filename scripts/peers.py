"""Starts the peers that scripts/bench-peers compares daypass with, each configured as its manual advises for the same work:
a session per user, the access token sent to the upstream as `Authorization`, refreshed before it ends.
"""

import base64
import json
import os
import re
import subprocess
from pathlib import Path

from benchlib import Failure, accepts, free_port, start_redis, target_folder, wait_for

MODULES = Path("/usr/lib/apache2/modules")
SCOPES = ["openid", "profile", "email", "offline_access"]


def start_mod_auth_openidc(lab, upstream, provider, margin, patience):
    """Apache with the module, sessions in a Redis of its own: the processes and the port."""
    redis, redis_port = start_redis(lab, "redis-apache")
    port = free_port()
    folder = lab.folder / "apache"
    folder.mkdir()
    modules = ["mpm_event", "authn_core", "authz_core", "authz_user", "headers", "proxy", "proxy_http", "auth_openidc"]
    load_modules = "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in modules)
    # Apache will not serve as root.
    user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
    processes = os.cpu_count()
    config = folder / "apache.conf"
    config.write_text(
        f"""ServerRoot {folder}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
Mutex pthread default
{load_modules}
{user}
ErrorLog /dev/stderr
LogLevel error
KeepAlive On
KeepAliveTimeout 300
MaxKeepAliveRequests 0
# One process per core from the first request on, none of which is ever replaced.
StartServers {processes}
ServerLimit {processes}
ThreadLimit 64
ThreadsPerChild 64
MaxRequestWorkers {64 * processes}
MinSpareThreads {64 * processes}
MaxSpareThreads {64 * processes}
MaxConnectionsPerChild 0

OIDCProviderMetadataURL {provider["issuer"]}/.well-known/openid-configuration
OIDCSSLValidateServer Off
OIDCClientID {provider["client_id"]}
OIDCClientSecret {provider["client_secret"]}
OIDCProviderTokenEndpointAuth client_secret_basic
OIDCPKCEMethod S256
OIDCScope "{" ".join(SCOPES)}"
OIDCRedirectURI http://127.0.0.1:{port}/callback
OIDCCryptoPassphrase {os.urandom(16).hex()}
OIDCSessionType server-cache
OIDCCacheType redis
OIDCRedisCacheServer 127.0.0.1:{redis_port}
OIDCHTTPTimeoutLong {patience}

ProxyPass / http://127.0.0.1:{upstream}/ enablereuse=on
<Location />
  AuthType openid-connect
  Require valid-user
  OIDCPassClaimsAs environment
  OIDCRefreshAccessTokenBeforeExpiry {margin}
  RequestHeader set Authorization "Bearer %{{OIDC_access_token}}e" env=OIDC_access_token
</Location>
"""
    )
    process = lab.start("apache", ["apache2", "-DFOREGROUND", "-f", str(config)])
    wait_for("Apache", lambda: accepts(port), process)
    return [process, redis], port


def start_envoy(lab, program, upstream, provider, patience):
    """Envoy with its OAuth2 filter, sessions in cookies: the process and the port."""
    port = free_port()
    folder = lab.folder / "envoy"
    folder.mkdir()

    def secret(name, value):
        path = folder / f"{name}.json"
        kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
        path.write_text(json.dumps({"resources": [{"@type": kind, "name": name, "generic_secret": {"secret": value}}]}))
        return {"name": name, "sds_config": {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}}

    def cluster(name, address):
        host, _, port = address.rpartition(":")
        endpoint = {"address": {"socket_address": {"address": host, "port_value": int(port)}}}
        return {
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        }

    def of_type(name, **config):
        return {"@type": f"type.googleapis.com/envoy.extensions.filters.{name}", **config}

    issuer = provider["issuer"]
    oauth = {
        "token_endpoint": {"cluster": "provider", "uri": f"{issuer}/token", "timeout": f"{patience}s"},
        "authorization_endpoint": f"{issuer}/authorize",
        "redirect_uri": f"http://127.0.0.1:{port}/callback",
        "redirect_path_matcher": {"path": {"exact": "/callback"}},
        "signout_path": {"path": {"exact": "/signout"}},
        "forward_bearer_token": True,
        "use_refresh_token": True,
        "auth_type": "BASIC_AUTH",
        "auth_scopes": SCOPES,
        "credentials": {
            "client_id": provider["client_id"],
            "token_secret": secret("token", {"inline_string": provider["client_secret"]}),
            "hmac_secret": secret("hmac", {"inline_bytes": base64.b64encode(os.urandom(32)).decode()}),
        },
    }
    filters = [
        {"name": "oauth2", "typed_config": of_type("http.oauth2.v3.OAuth2", config=oauth)},
        {"name": "router", "typed_config": of_type("http.router.v3.Router")},
    ]
    manager = of_type(
        "network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="in",
        http_filters=filters,
        route_config={
            "virtual_hosts": [
                {"name": "app", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}
            ]
        },
    )
    config = {
        "node": {"id": "bench", "cluster": "bench"},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                cluster("app", f"127.0.0.1:{upstream}"),
                cluster("provider", issuer.removeprefix("http://")),
            ],
        }
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps(config, indent=2))
    # Hot restart would leave shared memory behind, and be taken for that of another Envoy on this machine.
    options = ["--concurrency", str(os.cpu_count()), "--disable-hot-restart", "--log-level", "error"]
    process = lab.start("envoy", [program, "-c", str(path), *options])
    wait_for("Envoy", lambda: accepts(port), process)
    return [process], port


def find_envoy():
    """The binary that scripts/install-deps put in place, if it did."""
    found = list((target_folder() / "bench-peers").glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return found[0] if found else None


def versions(daypass, envoy):
    """What was compared, in a sentence."""

    def said(before, *command):
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        found = re.search(before + r"(\d[\d.]*)", run.stdout + run.stderr)
        if not found:
            raise Failure(f"{command[0]} does not tell its version")
        return found[1]

    # The module is no program: only the package manager knows.
    module = said("", "dpkg-query", "-W", "-f", "${Version}", "libapache2-mod-auth-openidc")
    return ", ".join(
        [
            f"daypass {said('daypass ', daypass, '--version')}",
            f"mod_auth_openidc {module} in Apache {said('Apache/', 'apache2', '-v')}",
            f"Envoy {said('/', envoy, '--version')}",
            f"nginx {said('nginx/', 'nginx', '-v')}",
            f"Redis {said('v=', 'redis-server', '--version')}",
        ]
    )
