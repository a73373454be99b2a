//! The report as one page that needs nothing else: figures as tables, plots drawn in the browser from
//! the numbers in the page. It works from a file, without a network, dark and light, on a phone.

mod data;
mod figures;

use std::fmt::Write;

use crate::checker::Verdict;
use crate::report::Report;

const PLOT_JS: &str = include_str!("../../assets/uPlot.iife.min.js");
const PLOT_CSS: &str = include_str!("../../assets/uPlot.min.css");
const REPORT_JS: &str = include_str!("../../assets/report.js");
const REPORT_CSS: &str = include_str!("../../assets/report.css");

/// The page of these reports.
pub(crate) fn page(reports: &[Report]) -> String {
    let broken = reports.iter().filter(|report| !report.is_clean()).count();
    let title = match reports {
        [only] => format!("valise-load: {}", only.name),
        _ => format!("valise-load: {} runs, {broken} with broken promises", reports.len()),
    };
    let mut body = String::new();
    if reports.len() > 1 {
        body += &format!("<h1>{}</h1>{}", Text(&title), contents(reports));
    }
    for (number, report) in reports.iter().enumerate() {
        body += &section(number, report);
    }
    let data = data::of(reports);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{PLOT_CSS}\n{REPORT_CSS}</style>\n</head>\n<body>\n{body}\n\
         <noscript><p class=\"warning\">The plots need JavaScript; the figures do not.</p></noscript>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n\
         <script>{PLOT_JS}</script>\n<script>{REPORT_JS}</script>\n</body>\n</html>\n",
        Text(&title)
    )
}

/// Text that may stand anywhere in a page.
struct Text<'a>(&'a str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn contents(reports: &[Report]) -> String {
    let row = |(number, report): (usize, &Report)| {
        let (class, word) = match report.is_clean() {
            true => ("kept", "kept"),
            false => ("broken", "broken"),
        };
        format!(
            "<tr><td><a href=\"#run{number}\">{}</a></td><td><span class=\"{class}\">{word}</span>\
             </td></tr>",
            Text(&report.name)
        )
    };
    let rows: String = reports.iter().enumerate().map(row).collect();
    format!("<nav><table><tr><th>run</th><th>promises</th></tr>{rows}</table></nav>")
}

fn section(number: usize, report: &Report) -> String {
    let machine = &report.machine;
    let command = report.command_line.join(" ");
    let mut html = format!("<section id=\"run{number}\">\n<h1>{}</h1>\n", Text(&report.name));
    html += &verdict(report);
    html += &warning(report);
    html += &figures::latencies(report);
    html += &figures::tables(report);
    html += &format!("<h2>Over time</h2><div class=\"plots\" id=\"plots{number}\"></div>\n");
    html += &figures::errors(report);
    let _ = write!(
        html,
        "<h2>How it was made</h2>\n<pre><code>{}</code></pre>\n\
         <p class=\"faint\">{}. {} cores, {}, {} GiB of memory, Linux {}. valise-load {}{}.</p>\n",
        Text(&command),
        date(report.started_at_unix_s),
        machine.cores,
        Text(&machine.cpu_model),
        machine.memory_bytes >> 30,
        Text(&machine.kernel),
        Text(&report.valise_load_version),
        match report.relay_version.as_str() {
            "" => String::new(),
            version => format!(", relay {}", Text(version)),
        }
    );
    html += &figures::raised(report);
    html + "</section>\n"
}

fn verdict(report: &Report) -> String {
    let Verdict { lost, duplicate, reordered, phantom, corrupt, shown, .. } = &report.verdict;
    let counts = match report.conservation.holds {
        Some(true) => "The relay's own counts add up.",
        Some(false) => "The relay's own counts DO NOT add up.",
        None => "The relay's own counts could not be asked for.",
    };
    let (class, words) = match report.is_clean() {
        true => ("kept", "Every promise kept"),
        false => ("broken", "Promises broken"),
    };
    let early = if report.interrupted { " Ended early by Ctrl-C." } else { "" };
    let merged = match report.merged_from {
        0 | 1 => String::new(),
        count => format!(
            " Merged from {count} reports; the relay's own counts and costs are counted once."
        ),
    };
    let examples: String = report
        .verdict
        .examples
        .iter()
        .map(|example| format!("<small>{}</small>", Text(example)))
        .collect();
    format!(
        "<div class=\"verdict {class}\">{words}<small>{} frames shown: {lost} lost, {duplicate} \
         doubled, {reordered} reordered, {phantom} invented, {corrupt} changed. \
         {counts}{early}{merged}</small>{examples}</div>\n",
        figures::grouped(*shown)
    )
}

fn warning(report: &Report) -> String {
    let mut html = String::new();
    for condition in &report.failed_conditions {
        html += &format!("<div class=\"warning\">fail-if held: {}</div>\n", Text(condition));
    }
    if report.tester_is_bottleneck {
        html += &format!(
            "<div class=\"warning\">The tester itself was the bottleneck: times and rates below say \
             little of the relay. Why: {}.</div>\n",
            Text(&report.tester_notes.join("; "))
        );
    }
    html
}

/// Seconds since 1970 as a date and time, UTC (the civil calendar, H. Hinnant).
fn date(unix_s: u64) -> String {
    let days = i64::try_from(unix_s / 86_400).unwrap_or(0) + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (unix_s / 3_600 % 24, unix_s / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{self, Percentiles};
    use crate::timeline::{Mark, Row, Timeline};

    fn report() -> Report {
        let mut latencies = latency::histogram();
        for us in 1..=5_000 {
            latencies.record(us * 1_000).unwrap();
        }
        let row = |second: u32| {
            let row = Row {
                at_unix_s: 1_700_000_000.0 + f64::from(second),
                seconds: 1.0,
                accepted: 100,
                shown: 100,
                connections: 20,
                server_rss_bytes: Some(20 << 20),
                ..Row::default()
            };
            row.with_latencies(&latencies)
        };
        let mark =
            Mark { at_unix_s: 1_700_000_003.0, what: "</script><script>alert(1)".to_owned() };
        let mut report = Report {
            name: "a <b> & \"c\"".to_owned(),
            command_line: vec!["valise-load".to_owned(), "--x='<i>'".to_owned()],
            delivered_latency: Percentiles::of(&latencies),
            timeline: Timeline { row_s: 1.0, rows: (0..9).map(row).collect(), marks: vec![mark] },
            ..Report::default()
        };
        report.histograms.delivered = latency::to_text(&latencies);
        report.errors.insert("post refused: <busy>".to_owned(), 3);
        report
    }

    /// Everything between a tag and its end.
    fn between<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
        page.split_once(from).unwrap().1.split_once(to).unwrap().0
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&[report()]);
        for loader in
            ["src=", "href=\"http", "@import", "url(", "fetch(", "XMLHttpRequest", "<link"]
        {
            assert!(!page.contains(loader), "{loader}");
        }
        // The only address is in the licence comment of the plotting library.
        let addresses = page.matches("https://").count() + page.matches("http://").count();
        assert_eq!(addresses, 1);
        assert!(page.contains("/*! https://github.com/leeoniya/uPlot (v1.6.32) */"));
    }

    #[test]
    fn the_numbers_in_it_are_json_and_nothing_breaks_out() {
        let page = page(&[report(), report()]);
        let data = between(&page, "<script type=\"application/json\" id=\"data\">", "</script>");
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data.as_array().unwrap().len(), 2);
        assert_eq!(data[0]["at"].as_array().unwrap().len(), 9);
        assert_eq!(data[0]["marks"][0][1], "</script><script>alert(1)");
        assert_eq!(data[0]["curve"][0]["name"], "delivered");
        assert_eq!(page.matches("<script").count(), 3);
        assert!(!page.contains("<busy>") && page.contains("&lt;busy&gt;"));
        assert!(!page.contains("<i>") && !page.contains("a <b>"));
    }

    #[test]
    fn the_verdict_is_said_in_words() {
        let mut report = report();
        assert!(page(&[report.clone()]).contains("Every promise kept"));
        assert!(!page(&[report.clone()]).contains("The tester itself was the bottleneck"));
        report.verdict.lost = 1;
        report.tester_is_bottleneck = true;
        report.failed_conditions = vec!["p99>5ms: p99_us is 6000".to_owned()];
        let page = page(&[report]);
        assert!(page.contains("Promises broken") && !page.contains("Every promise kept"));
        assert!(page.contains("The tester itself was the bottleneck"));
        assert!(page.contains("fail-if held: p99&gt;5ms"));
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_700_000_000), "2023-11-14 22:13 UTC");
    }
}
