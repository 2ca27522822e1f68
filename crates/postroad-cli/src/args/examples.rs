//! The examples that stand at the end of each command's long help.

pub(super) const SERVE: &str = "\
Examples:
  postroad serve
      a node at tcp+auto://127.0.0.1:7400
  postroad serve --practice --listen tcp://0.0.0.0:7400 --listen tcp+line://0.0.0.0:7406
  postroad serve --config postroad.toml --log warn,postroad::call=debug";

pub(super) const CALL: &str = "\
Examples:
  postroad call tcp://127.0.0.1:7400 postroad/echo '{\"a\": 1}'
  postroad call tcp://127.0.0.1:7400 Orders.place @order.json --timeout 2s --metadata tenant=a
  postroad call tcp://127.0.0.1:7400,127.0.0.1:7401 Orders.get 7 --explain
  postroad call orders Orders.get 7 --config postroad.toml
  date | postroad call tcp+line://127.0.0.1:7406 x -
  postroad call 'tls://host:7443?ca=ca.pem' postroad/echo --max-message 64MiB --trace @large.json";

pub(super) const LS: &str = "\
Examples:
  postroad ls tcp://127.0.0.1:7400
  postroad ls tcp://127.0.0.1:7400 --output json";

pub(super) const PROBE: &str = "\
Examples:
  postroad probe
      exits with 0 if the node of this machine is ready, with 1 if it is not
  postroad probe http://127.0.0.1:7490 --live --timeout 500ms
  postroad probe unix:///run/postroad/admin.sock --startup";

pub(super) const DECODE: &str = "\
Examples:
  postroad decode 'ABCD 01 01 00000001 00000007 78'
  postroad decode --dialect session --crc modbus frame.bin
  xxd -p capture.bin | postroad decode --dialect native -";

pub(super) const BENCH: &str = "\
Examples:
  postroad bench tcp://127.0.0.1:7400
      a closed loop of 64 callers, for 5 s
  postroad bench tcp://127.0.0.1:7400 --rate 20000 --duration 30s --max-p99 5ms --html run.html
      an open loop, which ends with 99 if the 99th percentile is over 5 ms
  postroad bench tcp://h:7400 --rate 1000:10s,5000:20s --workers 10.0.0.2:7480,10.0.0.3:7480
  postroad bench compare before.json after.json --fail-if slower:5%";

pub(super) const DEMO: &str = "\
Examples:
  postroad demo
  postroad demo --once
      for scripts: ends by itself";

pub(super) const CONFIG: &str = "\
Examples:
  postroad config check postroad.toml
  POSTROAD_SERVER__DRAIN=10s postroad config print postroad.toml";

pub(super) const COMPLETIONS: &str = "\
Examples:
  postroad completions bash > ~/.local/share/bash-completion/completions/postroad
  postroad completions zsh > ~/.zfunc/_postroad
      with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  postroad completions fish > ~/.config/fish/completions/postroad.fish
  postroad completions powershell >> $PROFILE";

pub(super) const MAN: &str = "\
Examples:
  postroad man --dir ~/.local/share/man/man1
      then `man postroad-bench`";

pub(super) const WORKER: &str = "\
Examples:
  postroad bench worker --listen 10.0.0.2:7480";

pub(super) const COMPARE: &str = "\
Examples:
  postroad bench compare before.json after.json
  postroad bench compare main/ branch/ --fail-if slower:5% --fail-if p99:10%";

pub(super) const REPORT: &str = "\
Examples:
  postroad bench report run.json --html run.html";

pub(super) const CODEC: &str = "\
Examples:
  postroad bench codec --output json";

pub(super) const CHECK: &str = "\
Examples:
  postroad config check postroad.toml";

pub(super) const PRINT: &str = "\
Examples:
  POSTROAD_SERVER__DRAIN=10s postroad config print postroad.toml";
