#!/usr/bin/env bash
# Installs patchline as a systemd service, upgrades it, goes back to the release before, or takes it away again.
# Asks nothing; a second run with the same source changes nothing. `install.sh --help` lists the options.
set -euo pipefail
umask 022 # the daemon's user must be able to read what is installed

usage() {
    cat <<'USAGE'
usage: install.sh [options]              install, or upgrade to this source's release
       install.sh --rollback [options]   go back to the release that ran before
       install.sh --uninstall [options]  take everything away but configuration, banks, journal and archive

  --prefix DIR       where releases go (default /opt/patchline)
  --destdir DIR      stage below DIR: nothing of the running system is touched
  --line NAME        also write /etc/patchline/NAME.toml for patchline@NAME.service; may be repeated
  --python PYTHON    the Python that makes the environment (default python3; 3.11 or 3.12)
  --wheelhouse DIR   install the libraries from DIR only, for a host without a network
                     (fill it elsewhere: pip download -d DIR --require-hashes -r requirements/runtime.lock)
  --use-venv DIR     link an environment that already holds patchline, instead of making one
  --no-venv          leave the environment alone: units and files only
  --help             show this text
USAGE
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

action=install
prefix=/opt/patchline
destdir=
python=python3
wheelhouse=
use_venv=
make_venv=yes
lines=()

while (($#)); do
    case $1 in
        --uninstall) action=uninstall ;;
        --rollback) action=rollback ;;
        --no-venv) make_venv=no ;;
        --help | -h) usage; exit 0 ;;
        --prefix | --destdir | --line | --python | --wheelhouse | --use-venv)
            (($# >= 2)) || die "$1 needs a value."
            case $1 in
                --prefix) prefix=${2%/} ;;
                --destdir) destdir=${2%/} ;;
                --line) lines+=("$2") ;;
                --python) python=$2 ;;
                --wheelhouse) wheelhouse=$2 ;;
                --use-venv) use_venv=$2 ;;
            esac
            shift ;;
        *) die "there is no option $1. 'install.sh --help' lists them." ;;
    esac
    shift
done

[[ $prefix =~ ^/[A-Za-z0-9._/-]+$ ]] || die "--prefix must be an absolute path of letters, digits and ._-/ and is '$prefix'."
[[ -z $destdir || $destdir == /* ]] || die "--destdir must be an absolute path and is '$destdir'."
for line in ${lines[@]+"${lines[@]}"}; do
    [[ $line =~ ^[A-Za-z0-9_.-]{1,64}$ && $line != config ]] ||
        die "a line's name is 1 to 64 letters, digits and ._-, and not 'config'; '$line' isn't."
done
[[ -n $destdir || $EUID -eq 0 ]] || die "installing into the system needs root. To look at the files first: --no-venv --destdir DIR."

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
source_dir=$(dirname -- "$here")
root=$destdir$prefix
units=$destdir/etc/systemd/system
etc=$destdir/etc/patchline
link=$destdir/usr/local/bin/patchline
dropin_dirs=("$units/patchline.service.d" "$units/patchline@.service.d")
dropins=(10-notify-reload.conf 15-restart-backoff.conf 20-ascend.conf 30-keys.conf)

# A staged tree is made the same on every host: what depends on the host is decided where it is really installed.
live() { [[ -z $destdir ]]; }
systemd_runs() { live && [[ -d /run/systemd/system ]]; }
systemd_version() { systemctl --version 2>/dev/null | awk 'NR == 1 { print $2 + 0 }'; }

put() { # put SOURCE TARGET: writes TARGET, with the prefix in it, only if it differs
    local content
    content=$(mktemp)
    sed "s|/opt/patchline|$prefix|g" "$1" >"$content"
    cmp -s "$content" "$2" || install -D -m 0644 "$content" "$2"
    rm -f "$content"
}

put_config() { # put_config TARGET STATE_DIR: never overwrites
    if [[ -e $1 ]]; then
        say "kept      $1"
        return
    fi
    install -d -m 0755 "$(dirname -- "$1")"
    sed -e "s|^state_dir = .*|state_dir = \"$2\"|" \
        -e "/^\[banks\]/,/^\[/ s|^dir = .*|dir = \"/var/lib/patchline/banks\"|" \
        -e "/^\[archive\]/,/^\[/ s|^dir = .*|dir = \"$2/archive\"|" \
        "$source_dir/config.toml" >"$1.new"
    chmod 0644 "$1.new"
    mv "$1.new" "$1"
    say "wrote     $1"
}

switch_to() { # switch_to RELEASE: `current` is replaced in one step, the one before becomes `previous`
    local now
    now=$(readlink "$root/current" || true)
    [[ $now != "releases/$1" ]] || return 0
    [[ -z $now ]] || ln -sfn "$now" "$root/previous"
    ln -sfn "releases/$1" "$root/.current.new"
    mv -T "$root/.current.new" "$root/current"
    say "current   $prefix/releases/$1"
}

release_name() {
    local version digest
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source_dir/pyproject.toml" | head -n 1)
    digest=$(cd "$source_dir" && find pyproject.toml requirements/runtime.lock patchcore_engine daemon -type f \
        ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-8)
    printf '%s-%s' "$version" "$digest"
}

install_release() {
    local name release build
    local pip_source=()
    name=$(release_name)
    release=$root/releases/$name
    [[ -z $use_venv || -x $use_venv/bin/patchline ]] || die "$use_venv holds no patchline: bin/patchline is missing."
    install -d -m 0755 "$root/releases"
    if [[ -n $use_venv ]]; then
        [[ $(readlink "$release" || true) == "$use_venv" ]] || { rm -rf "$release"; ln -sfn "$use_venv" "$release"; }
    elif [[ -L $release || ! -e $release/.complete ]]; then
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null ||
            die "patchline needs Python 3.11 or 3.12 and $python is another, or absent. Name one that is there: --python PYTHON."
        rm -rf "$release"
        "$python" -m venv "$release" ||
            die "$python can't make a virtual environment. On Debian: apt-get install python3-venv"
        [[ -z $wheelhouse ]] || pip_source=(--no-index --find-links "$wheelhouse")
        say "Installing the locked libraries into $prefix/releases/$name, about 1 GB ..."
        "$release/bin/python" -m pip install --disable-pip-version-check --only-binary :all: --require-hashes \
            ${pip_source[@]+"${pip_source[@]}"} -r "$source_dir/requirements/runtime.lock"
        "$release/bin/python" "$source_dir/requirements/link_libgomp.py"
        # The build leaves files beside its source, which may be read-only or somebody's checkout.
        build=$(mktemp -d)
        cp -r "$source_dir"/{pyproject.toml,README.md,LICENSE,patchcore_engine,daemon} "$build"
        "$release/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation "$build"
        rm -rf "$build"
        # Scripts name their interpreter by its staged path until here.
        live || grep -rlIZ --exclude-dir=lib -- "$root" "$release/bin" "$release/pyvenv.cfg" |
            xargs -0r sed -i "s|$root|$prefix|g"
        touch "$release/.complete"
    fi
    switch_to "$name"
    prune_releases
    install -d -m 0755 "$(dirname -- "$link")"
    ln -sfn "$prefix/current/bin/patchline" "$link"
}

prune_releases() { # keeps the running release and the one to go back to
    local release name
    for release in "$root"/releases/*; do
        name=releases/${release##*/}
        [[ $name == "$(readlink "$root/current")" || $name == "$(readlink "$root/previous" || true)" ]] || rm -rf "$release"
    done
}

install_dropins() {
    local dir version
    version=$(systemd_version)
    for dir in "${dropin_dirs[@]}"; do
        ((${version:-0} < 253)) || put "$here/dropins/10-notify-reload.conf" "$dir/10-notify-reload.conf"
        ((${version:-0} < 254)) || put "$here/dropins/15-restart-backoff.conf" "$dir/15-restart-backoff.conf"
        ! getent group HwHiAiUser >/dev/null || put "$here/dropins/20-ascend.conf" "$dir/20-ascend.conf"
        [[ ! -e $etc/keys/daemon.key ]] || put "$here/dropins/30-keys.conf" "$dir/30-keys.conf"
    done
    local set_env=${ASCEND_SET_ENV:-/usr/local/Ascend/ascend-toolkit/set_env.sh}
    if [[ -r $set_env && ! -e $etc/ascend.env ]]; then
        # systemd can't source a shell script; what the script sets is written down once, here.
        # shellcheck disable=SC2016
        env -i PATH="$PATH" HOME=/var/lib/patchline bash -c '. "$1" >/dev/null; env' bash "$set_env" |
            grep -E '^(ASCEND_|LD_LIBRARY_PATH|PYTHONPATH|TOOLCHAIN_HOME|PATH)[A-Z_]*=' >"$etc/ascend.env" ||
            die "$set_env sets nothing that a daemon needs. Name the right file: ASCEND_SET_ENV=FILE install.sh"
        say "wrote     $etc/ascend.env from $set_env (delete it and run install.sh again after a toolkit upgrade)"
    fi
}

do_install() {
    local line file
    [[ $make_venv == no ]] || install_release
    put "$here/patchline.service" "$units/patchline.service"
    put "$here/patchline@.service" "$units/patchline@.service"
    put "$here/sysusers.d/patchline.conf" "$destdir/etc/sysusers.d/patchline.conf"
    put "$here/tmpfiles.d/patchline.conf" "$destdir/etc/tmpfiles.d/patchline.conf"
    while IFS= read -r -d '' file; do
        put "$file" "$root/share/${file#"$here"/}"
    done < <(find "$here/prometheus" "$here/grafana" "$here/dropins" "$here/README.md" -type f -print0)
    put_config "$etc/config.toml" /var/lib/patchline
    for line in ${lines[@]+"${lines[@]}"}; do
        put_config "$etc/$line.toml" "/var/lib/patchline/$line"
    done
    if live; then
        systemd-sysusers /etc/sysusers.d/patchline.conf
        systemd-tmpfiles --create /etc/tmpfiles.d/patchline.conf
        install_dropins
    fi
    if systemd_runs; then
        systemctl daemon-reload
        say "Installed. Next: edit /etc/patchline/config.toml, make a bank with 'patchline fit', then:"
        say "    systemctl enable --now patchline         (after an upgrade: systemctl restart patchline)"
    else
        say "Installed. No systemd runs here, so nothing was started."
    fi
}

do_rollback() {
    local before
    before=$(readlink "$root/previous" || true)
    [[ -n $before && -e $root/$before ]] || die "there is no earlier release below $prefix/releases to go back to."
    switch_to "${before#releases/}"
    say "Restart the daemon to run it: systemctl restart patchline"
}

do_uninstall() {
    local dir dropin
    if systemd_runs; then
        systemctl disable --now patchline.service >/dev/null 2>&1 || true
        systemctl stop 'patchline@*.service' >/dev/null 2>&1 || true
    fi
    rm -f "$units/patchline.service" "$units/patchline@.service" "$units"/*.wants/patchline{,@*}.service \
        "$destdir/etc/sysusers.d/patchline.conf" "$destdir/etc/tmpfiles.d/patchline.conf" "$link"
    for dir in "${dropin_dirs[@]}"; do
        for dropin in "${dropins[@]}"; do rm -f "$dir/$dropin"; done
        rmdir --ignore-fail-on-non-empty "$dir" 2>/dev/null || true
    done
    rm -rf "$root/releases" "$root/current" "$root/previous" "$root/share"
    rmdir --ignore-fail-on-non-empty "$root" 2>/dev/null || true
    ! systemd_runs || systemctl daemon-reload
    say "Uninstalled. Kept: /etc/patchline (configuration), /var/lib/patchline (banks, journal, archive),"
    say "/var/cache/patchline, and the user patchline, who owns them. Delete these by hand if they aren't wanted."
}

"do_$action"
