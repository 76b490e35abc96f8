'use strict';
const PERIOD_MS = 1000;
const TIMEOUT_MS = 2000;
/** A member that the leader has not heard for so long is shown as silent. */
const SILENT_MS = 3000;
const $ = (id) => document.getElementById(id);

/** Makes an element; all data goes in as text or attributes, never as markup. */
function make(tag, attributes = {}, ...children) {
  const svg = ['g', 'circle', 'line', 'text', 'title'].includes(tag);
  const element = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** What this node answers at a path; null if it does not answer. The page asks no other node. */
async function askNode(path) {
  try {
    const response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/** What this node said last; what it knows of the others is used even when it no longer answers. */
let here = null;

/** Asks this node for its status and for what it knows of the members, and shows it. */
async function look() {
  const [answer, report] = await Promise.all([askNode('/v1/status'), askNode('/v1/members')]);
  here = answer ?? here;
  const known = report ? [...report.voters, ...report.learners] : here ? [...here.voters, ...here.learners] : [];
  if (here && !known.some((member) => member.node_id === here.node_id)) known.unshift(here);
  show(answer, known.map((member) => ({ member, ...seen(member, answer) })));
}

/** Role and progress of a member, as far as this node knows them. The leader alone knows how far the others are. */
function seen(member, answer) {
  if (member.node_id === here.node_id) {
    return { status: answer, state: answer ? answer.role : 'no answer' };
  }
  if (!answer) return { status: null, state: 'unknown' };
  if (member.silent_ms >= SILENT_MS) {
    return { status: null, state: `silent for ${Math.round(member.silent_ms / 1000)} s` };
  }
  const state = answer.leader?.node_id === member.node_id ? 'leader' : 'follower';
  const asked = answer.leader ? { last_log_index: member.match_index } : null;
  return { status: asked, state: asked ? state : 'unknown' };
}

function show(answer, members) {
  $('health').textContent = !answer ? 'this node does not answer' : answer.healthy ? 'ready' : 'not ready';
  $('health').classList.toggle('bad', !answer?.healthy);
  $('reasons').textContent = answer?.reasons.join(' · ') ?? '';
  $('reasons').hidden = !answer?.reasons.length;
  if (!here) return;
  document.title = `${here.name} · kuberaft`;
  $('who').textContent = `${here.name} · version ${here.version}` +
    (here.cluster_id ? ` · cluster ${here.cluster_id}` : ' · no cluster yet');
  draw(members);
  $('rows').replaceChildren(...members.map(tableRow));
}

function tableRow({ member, status, state }) {
  const number = (value) => make('td', { class: 'number' }, String(value ?? '–'));
  const name = member.name + (member.node_id === here.node_id ? ' (this node)' : '');
  const learner = here.learners.some((other) => other.node_id === member.node_id);
  return make('tr', {},
    make('th', { scope: 'row' }, name),
    make('td', {}, state.replace('_', '-') + (learner ? ', learner' : '')),
    number(status?.term), number(status?.commit_index), number(status?.applied_index),
    number(status?.last_log_index),
    make('td', {}, member.client_addr ?? '–'), make('td', {}, member.node_id ?? '–'));
}

function leaderOf(members) {
  return members.find(({ state }) => state === 'leader');
}

function draw(members) {
  const leader = leaderOf(members);
  const places = members.map((row, at) => {
    const angle = (at / members.length) * 2 * Math.PI - Math.PI / 2;
    const spread = members.length === 1 ? 0 : 1;
    return { row, x: 320 + 210 * spread * Math.cos(angle), y: 150 + 105 * spread * Math.sin(angle) };
  });
  const from = places.find(({ row }) => row === leader);
  const lines = places.filter(({ row }) => from && row !== leader && row.status)
    .map(({ x, y }) => make('line', { x1: from.x, y1: from.y, x2: x, y2: y }));
  $('ring').replaceChildren(...lines, ...places.map((place) => node(leader, place)));
}

function node(leader, { row, x, y }) {
  const { member, status, state } = row;
  const kinds = [];
  if (row === leader) kinds.push('leader');
  else if (!status) kinds.push('down');
  else if (state !== 'follower') kinds.push('candidate');
  if (member.node_id === here.node_id) kinds.push('here');
  const text = (dy, kind, words) => make('text', { x, y: y + dy, class: kind }, words);
  const parts = [make('circle', { cx: x, cy: y, r: 40 }), text(status?.term ? -1 : 4, '', state.replace('_', '-'))];
  if (status?.term) parts.push(text(15, 'small', `term ${status.term}`));
  parts.push(text(60, 'name', (row === leader ? '★ ' : '') + member.name));
  if (status?.commit_index !== undefined) {
    parts.push(text(77, 'small', `commit ${status.commit_index} · applied ${status.applied_index}`));
  } else if (status?.last_log_index !== undefined) {
    parts.push(text(77, 'small', `last log ${status.last_log_index}`));
  }
  return make('g', { class: kinds.join(' ') }, ...parts);
}

/** Gets or puts the key at this node; the button pressed says which. Enter in the key box gets. */
async function ask(event) {
  event.preventDefault();
  const put = event.submitter?.name === 'put';
  const stale = !put && $('stale').checked ? '?consistency=stale' : '';
  const options = put ? { method: 'PUT', body: $('value').value } : { cache: 'no-store' };
  $('answer').textContent = '…';
  try {
    const response = await fetch(`/v1/kv/${encodeURIComponent($('key').value)}${stale}`, options);
    $('answer').textContent = put ? await putAnswer(response) : await getAnswer(response);
  } catch (error) {
    $('answer').textContent = `no answer: ${error.message}` + (put ? ' (it may have been written)' : '');
  }
}

async function getAnswer(response) {
  if (response.status === 404) $('value').value = '';
  if (!response.ok) return problem(response);
  const bytes = await response.arrayBuffer();
  const revision = `revision ${response.headers.get('etag')?.replaceAll('"', '')}`;
  const written = `written ${response.headers.get('x-kuberaft-version')} times`;
  try {
    $('value').value = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return `${revision}, ${written}`;
  } catch {
    $('value').value = '';
    return `${revision}, ${written}; ${bytes.byteLength} bytes that are not text`;
  }
}

async function putAnswer(response) {
  if (!response.ok) return problem(response);
  const { revision, version } = await response.json();
  return `written at revision ${revision}, version ${version} of the key`;
}

async function problem(response) {
  const { code, detail, outcome } = await response.json();
  return `${response.status} ${code}: ${detail}` + (outcome === 'unknown' ? ' (it may have been written)' : '');
}

$('form').addEventListener('submit', ask);
(async () => {
  for (;;) {
    await look();
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
  }
})();
