# nginx's stream module, where svc-haproxy.sh has HAProxy.
. "$BENCH_DIR/systems/svc-haproxy.sh"
: "${NGINX_STREAM:=/usr/lib/nginx/modules/ngx_stream_module.so}"
sys_check() { have "$VSWITCHD" && have nginx && [ -e "$NGINX_STREAM" ]; }
sys_info() { echo "version=$(nginx -v 2>&1 | sed 's|.*/||')"; echo "enc=none"; echo "layer=L4"; }
sys_up() { proxy_up && nginx_up; }

nginx_up() {
  local task port worker
  {
    echo "load_module $NGINX_STREAM;"
    echo "daemon off;"
    echo "worker_processes auto;"
    echo "worker_rlimit_nofile 9000;"
    echo "pid nginx.pid;"
    echo "events { worker_connections 8192; multi_accept on; }"
    echo "stream {"
    for port in $SVC_PORTS; do
      echo "  upstream port$port {"
      for task in $SVC_TASKS; do echo "    server $task:$port max_fails=0;"; done
      echo "  }"
      echo "  server {"
      echo "    listen $port reuseport backlog=4096;"
      echo "    proxy_pass port$port;"
      echo "    proxy_buffer_size 64k;"
      echo "    proxy_timeout 1h;"
      echo "  }"
    done
    echo "}"
  } >nginx.conf
  spawn nginx "$PROXY_NS" nginx -e stderr -p "$WORK" -c "$WORK/nginx.conf"
  wait_for 10 tcp_bound "$PROXY_NS" "${SVC_PORTS##* }" || return
  # Its workers do the work.
  for worker in $(pgrep -P "$!"); do adopt nginx-worker "$worker"; done
}
