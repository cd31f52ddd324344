// Asks the agent's own reader about configuration files: for each, what it refuses. Input, on standard input: a JSON
// object of its `config/io.js` and a list of `{path, env}`. Output: a list of lists of complaints.
import { readFileSync } from "node:fs";

const { reader, files } = JSON.parse(readFileSync(0, "utf8"));
const { createConfigIO } = await import(reader);
const answers = [];
for (const { path, env } of files) {
  const quiet = { error() {}, warn() {} };
  const found = await createConfigIO({ configPath: path, env, logger: quiet }).readConfigFileSnapshot();
  const complaints = [...found.issues, ...found.legacyIssues].map((issue) => `${issue.path}: ${issue.message}`);
  answers.push(found.valid && found.exists ? complaints : ["not valid", ...complaints]);
}
console.log(JSON.stringify(answers));
