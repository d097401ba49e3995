// bicep-lint parses every Bicep file below a folder with Bicep's tree-sitter
// grammar and fails on the first kind of thing that a compiler would refuse
// outright: text that is not Bicep. It knows no types, no resource schemas and
// no scopes; a file that passes here may still be refused by `az bicep build`.
//
//   node tools/bicep-lint.mjs infra
//
// Exit status: 0 all files parse, 1 some do not (each fault as file:line:column),
// 2 it could not run.

import { createRequire } from "node:module";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import process from "node:process";

const require = createRequire(import.meta.url);

async function* bicepFiles(dir) {
  const entries = await readdir(dir, { withFileTypes: true });
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const e of entries) {
    const p = path.join(dir, e.name);
    if (e.isDirectory()) yield* bicepFiles(p);
    else if (e.name.endsWith(".bicep")) yield p;
  }
}

// faults lists the ERROR and MISSING nodes of a tree, innermost first of each branch.
function faults(node) {
  if (node.isMissing) return [{ node, what: `missing ${node.type}` }];
  const inner = node.hasError ? node.children.flatMap(faults) : [];
  if (inner.length > 0) return inner;
  if (node.isError) {
    const text = node.text.split("\n")[0].slice(0, 60);
    return [{ node, what: `not Bicep: ${JSON.stringify(text)}` }];
  }
  return [];
}

async function loadParser() {
  const { Parser, Language } = await import("web-tree-sitter");
  await Parser.init();
  const grammar = path.join(path.dirname(require.resolve("tree-sitter-bicep/package.json")), "tree-sitter-bicep.wasm");
  const parser = new Parser();
  parser.setLanguage(await Language.load(grammar));
  return parser;
}

async function main(dir) {
  let parser;
  try {
    parser = await loadParser();
  } catch (err) {
    console.error(`bicep-lint: the grammar could not be loaded: ${err.message}; run \`npm ci\` first`);
    return 2;
  }
  let files = 0;
  let bad = 0;
  for await (const file of bicepFiles(dir)) {
    files++;
    const tree = parser.parse(await readFile(file, "utf8"));
    const root = tree.rootNode;
    if (!root.hasError) continue;
    const found = faults(root);
    if (found.length === 0) found.push({ node: root, what: "not Bicep" });
    for (const f of found) {
      const at = f.node.startPosition;
      console.error(`${file}:${at.row + 1}:${at.column + 1}: ${f.what}`);
      bad++;
    }
  }
  if (files === 0) {
    console.error(`bicep-lint: no .bicep file below ${JSON.stringify(dir)}`);
    return 2;
  }
  console.error(`bicep-lint: ${files} files, ${bad} faults (syntax only: nothing was compiled)`);
  return bad === 0 ? 0 : 1;
}

const args = process.argv.slice(2);
if (args.length > 1) {
  console.error("usage: node tools/bicep-lint.mjs [folder]");
  process.exit(2);
}
process.exit(await main(args[0] ?? "infra").catch((err) => {
  console.error(`bicep-lint: ${err.message}`);
  return 2;
}));
