# What the docs say is what the program prints.
set -euo pipefail
cd "$SOURCE_DIR"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# docs/commands.md is the help of every command.
{
  echo "# Commands"
  echo
  echo "Printed by the program itself; a test compares this page with it. Keys of config files: [keys.md](keys.md)."
  for command in $("$FUSION" --help | awk '/^Subcommands:/ {on = 1; next} on && NF {print $1}'); do
    printf '\n## fusion %s\n```\n' "$command"
    "$FUSION" "$command" --help | sed "s|$FUSION|fusion|g; s/[[:space:]]*$//"
    printf '```\n'
  done
} >"$work/commands.md"
if [ "${UPDATE:-}" = 1 ]; then cp "$work/commands.md" docs/commands.md; fi
diff -u docs/commands.md "$work/commands.md"

# Every script and config file that the README names exists, and so does every command.
for path in $(grep -oE '(scripts|configs|docs|src|include|tests|tools)/[A-Za-z0-9_./-]+' README.md | sed 's/[.,:]*$//' | sort -u); do
  [ -e "$path" ] || { echo "README.md names $path, which is not there"; exit 1; }
done
for command in $(grep -oE '(^|`|\$ )fusion [a-z]+' README.md | awk '{print $NF}' | sort -u); do
  grep -q "^## fusion $command\$" docs/commands.md || { echo "README.md names 'fusion $command', which is no command"; exit 1; }
done
