"""The files that Envoy and nginx are started with."""

import json
from typing import Any

from benchmarks.rules import envoy_rbac

ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
HTTP_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
MANY = 1_000_000

SMALL_BODY = '{"job": 1, "state": "running", "owner": "tweeter", "queue": "default", "tries": 1, "age_s": 12345}'
BODIES = {"10k": 10 * 1024, "1m": 1024 * 1024}


def envoy_config(upstream_port: int, access_log: str) -> str:
    """Envoy as a plain HTTP/1.1 proxy with RBAC; its listener and its admin port are picked by the kernel.

    Whatever costs Envoy time and is not the job is off: request ids, its own headers, tracing, retries, path
    normalisation. The log is Envoy's default line.
    """
    config = {
        "admin": {"address": _address(0)},
        "static_resources": {"listeners": [_listener(access_log)], "clusters": [_cluster(upstream_port)]},
    }
    return json.dumps(config, indent=1)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(access_log: str) -> dict[str, Any]:
    manager = {
        "@type": HTTP_MANAGER,
        "codec_type": "HTTP1",
        "stat_prefix": "bench",
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": {"@type": FILE_LOG, "path": access_log}}],
        "http_filters": [
            {"name": "envoy.filters.http.rbac", "typed_config": {"@type": RBAC, "rules": envoy_rbac()}},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": ROUTER, "suppress_envoy_headers": True},
            },
        ],
        "route_config": {
            "name": "all",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                }
            ],
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": "front", "address": _address(0), "filter_chains": [{"filters": filters}]}


def _cluster(upstream_port: int) -> dict[str, Any]:
    return {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream_port)}}]}],
        },
        "circuit_breakers": {
            "thresholds": [{"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}]
        },
    }


def nginx_config(prefix: str, port: int, user: str | None) -> str:
    """One worker that answers from memory or by sendfile, and closes no connection by itself; `user` if root."""
    return f"""{f"user {user};" if user else ""}
daemon off;
worker_processes 1;
pid {prefix}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests {MANY * 1000};
    keepalive_timeout 600s;
    sendfile on;
    tcp_nodelay on;
    open_file_cache max=16 inactive=600s;
    open_file_cache_valid 600s;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 '{SMALL_BODY}'; }}
        location /files/ {{ root {prefix}/html; }}
    }}
}}
"""
