//! A number for each day, as bars.

use plotters::prelude::*;

use super::Series;

/// Colours by which the style sheet knows what they are for, and puts others there for dark and for light.
const INK: RGBColor = RGBColor(1, 2, 3);
const LINE: RGBColor = RGBColor(2, 3, 4);
const BAR: RGBColor = RGBColor(3, 4, 5);

const SIZE: (u32, u32) = (480, 220);

pub type Failed = DrawingAreaErrorKind<std::io::Error>;

/// A plot as an SVG element.
pub fn bars(series: &Series) -> Result<String, Failed> {
    let mut svg = String::new();
    draw(series, &mut svg)?;
    Ok(svg)
}

fn draw(series: &Series, svg: &mut String) -> Result<(), Failed> {
    let days = series.days.len().max(1);
    let most = series.days.iter().map(|(_, number)| *number).fold(0.0, f64::max);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let font = ("sans-serif", 16).into_font().color(&INK);
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(28)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..days as f64, 0.0..if most > 0.0 { most * 1.05 } else { 1.0 })?;
    let day = |at: &f64| {
        let day = series.days.get(*at as usize).filter(|_| at.fract() == 0.0);
        // Month and day of an ISO date.
        day.map_or(String::new(), |(date, _)| date.get(5..).unwrap_or(date).to_owned())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(LINE)
        .light_line_style(TRANSPARENT)
        .axis_style(LINE)
        .label_style(font)
        .x_labels(6)
        .x_label_formatter(&day)
        .y_labels(4)
        .y_label_formatter(&|number| super::page::short(*number))
        .draw()?;
    chart.draw_series(series.days.iter().enumerate().map(|(n, (_, number))| {
        let (from, to) = (n as f64 + 0.1, n as f64 + 0.9);
        Rectangle::new([(from, 0.0), (to, *number)], BAR.filled())
    }))?;
    area.present()
}
